"""Two views of each example: how the loss takes them, what is drawn together, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset, TensorDataset

from fedsim.audit import AuditPlan, Subject
from fedsim.audit.captured import read_update
from fedsim.audit.loading import load_subject
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import LossOfViews, check_subject
from fedsim.audit.update_attacks import updates
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import attacked

FIRST, SECOND = torch.rand(2, 24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 8))


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Tells the halves from one another: the first view alone is squared."""
    return (first.square() - second).square().mean()


def of_partners(embeddings: Tensor, partners: Tensor) -> Tensor:
    return F.mse_loss(embeddings, embeddings[partners].detach())


def views(*parts: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(*parts), batch_size=8)


def client(
    loss: Any = apart, loader: Any = None, views_: Any = "halves", model: nn.Module | None = None, **more: Any
) -> Subject:
    return Subject(model or encoder(), loss, views(FIRST, SECOND) if loader is None else loader, views=views_, **more)


LABELLED = DataLoader(StackDataset(StackDataset(FIRST, SECOND), LABELS), batch_size=8)


@pytest.mark.parametrize("loader", [views(FIRST, SECOND), LABELLED])
@pytest.mark.parametrize(("form", "loss"), [("halves", apart), ("stacked", of_partners)])
def test_the_clients_gradient_is_that_of_the_users_loss_of_both_views(
    loader: Any, form: LossOfViews, loss: Any
) -> None:
    subject = load_subject(lambda: client(loss, loader, form), "mine")
    assert subject.notes[0] == (
        "Understood: pairs, 2 views of each image, so a batch of 1 holds 2; loss of both embeddings; 4 tensors "
        "are sent."
    )
    sound = check_subject(subject, "mine")
    assert (sound.task.name, len(sound.dataset.train), len(sound.dataset.test)) == ("contrastive", 24, 24)
    victim = next(updates(world_of(sound, AuditPlan(target="mine"), 3)))
    inputs, labels = victim.examples.inputs, victim.examples.labels
    chosen = labels[:3].long()
    assert torch.equal(labels, torch.cat([chosen, chosen]).float())
    assert torch.equal(inputs, torch.cat([FIRST[chosen], SECOND[chosen]]))
    model = encoder()
    if form == "halves":
        value = loss(model(FIRST[chosen]), model(SECOND[chosen]))
    else:
        value = loss(model(inputs), torch.tensor([3, 4, 5, 0, 1, 2]))
    expected = torch.autograd.grad(value, list(model.parameters()))
    for ours, theirs in zip(victim.entry.update.tensors.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_both_views_of_a_single_pair_come_back() -> None:
    finding = attacked(load_subject(client, "mine"))
    assert [len(victim.scores) for victim in finding.victims] == [2, 2]
    # Exact up to rounding: half a step of 256 levels is 54 dB.
    assert all(item.values["psnr"] > 60 for victim in finding.victims for item in victim.scores)


def test_test_data_and_rows_are_taken_too() -> None:
    rows = [part.flatten(1) for part in (FIRST, SECOND)]
    subject = load_subject(lambda: client(loader=views(*rows), test=views(*(part[:5] for part in rows))), "mine")
    assert "2 views of each row" in subject.notes[0]
    sound = check_subject(subject, "mine")
    assert (len(sound.dataset.train), len(sound.dataset.test)) == (48, 10)


def test_a_captured_gradient_is_of_the_first_pairs(tmp_path: Path) -> None:
    model = encoder()
    value = apart(model(FIRST[:2]), model(SECOND[:2]))
    gradient = torch.autograd.grad(value, list(model.parameters()))
    named = zip(dict(model.named_parameters()), gradient, strict=True)
    np.savez(tmp_path / "sent.npz", **{name: tensor.numpy() for name, tensor in named})
    plan = AuditPlan(target="mine", batches=(2,), gradients=tmp_path / "sent.npz")
    victim = read_update(check_subject(load_subject(client, "mine"), "mine"), plan).victim
    assert victim.examples.labels.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert torch.equal(victim.examples.inputs[:2], torch.stack([FIRST[0], SECOND[0]]))
    assert victim.objective_at_truth == pytest.approx(0.0, abs=1e-6)  # single precision


def test_labels_beside_views_may_have_parts() -> None:
    parts = DataLoader(StackDataset(StackDataset(FIRST, SECOND), StackDataset(LABELS, LABELS)), batch_size=8)
    assert load_subject(lambda: client(loader=parts), "mine").heads == ()


class Queue:
    """A loss with a memory bank."""

    def __init__(self) -> None:
        self.bank = torch.ones(8)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        value = F.mse_loss(first, second) + (first @ self.bank).mean()
        self.bank = second.detach().mean(0)
        return value


class Momentum(nn.Module):
    """An encoder and its moving average, which take a view each."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = encoder(), encoder()

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(query), self.key(key)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (client(views_="half"), "views is 'half', expected 'halves' or 'stacked'"),
        (Subject(encoder(), None, LABELLED, views="halves"), "need a loss of embeddings"),
        (Subject(encoder(), apart, None, views="halves", shape=(1, 4, 4)), "need a loss of embeddings and a loader"),
        (client(loader=[]), "yields 0 pairs of views, expected at least 4, half of them for tests"),
        (client(loader=[(FIRST[:3], SECOND[:3])]), "yields 3 pairs of views, expected at least 4"),
        (client(loader=views(FIRST, LABELS)), r"yields torch.int64 of shape \(8,\)"),
        (client(loader=[(FIRST, SECOND, LABELS)]), "yields Tensor, Tensor, Tensor, expected two views"),
        (client(loader=[{"x": FIRST}]), r"yields dict, expected two views of each example, \(x1, x2\) or"),
        (client(loader=[((FIRST,), LABELS)]), "yields Tensor, expected two views"),
        (client(loader=[(FIRST, SECOND[..., :3])]), r"views of shapes \(24, 1, 4, 4\) and \(24, 1, 4, 3\), expected"),
        (client(loss=lambda z: z.sum()), r"fails on embeddings of shape \(4, 8\), which views='halves' gives it as"),
        (client(loss=Queue()), "depends on earlier batches or on chance. The audit supports an encoder .* a memory"),
        (client(model=Momentum()), "fails on views: TypeError: .*missing 1 required .* momentum encoder"),
    ],
)  # fmt: skip
def test_what_cannot_be_audited_is_one_sentence(subject: Subject, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(lambda: subject, "mine")
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")
