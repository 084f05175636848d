"""Models with several heads: what is understood of them, that their loss is the user's, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset

from fedsim.audit import Subject
from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from fedsim.core.types import LabelHead

INPUTS = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(24) % 3
SETS = (torch.arange(48).reshape(24, 2) % 2).float()


class Two(nn.Module):
    def __init__(self, outputs: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.outputs = nn.Linear(16, 3), nn.Linear(16, 2), outputs

    def forward(self, inputs: Tensor) -> Any:
        rows = inputs.flatten(1)
        return self.outputs(self.first(rows), self.second(rows))


def of_tuples(outputs: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(outputs[0], labels[0]) + 2 * F.binary_cross_entropy_with_logits(outputs[1], labels[1])


def of_names(outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    return of_tuples((outputs["a"], outputs["b"]), (labels["a"], labels["b"]))


def loader(labels: Any) -> DataLoader:
    return DataLoader(StackDataset(INPUTS, labels), batch_size=8)


BOXES = [torch.ones(3, 4), torch.ones(1, 4)]  # of two images
NAMED = StackDataset(a=CLASSES, b=SETS)


@pytest.mark.parametrize(
    ("client", "names"),
    [
        ((Two(lambda a, b: (a, b)), of_tuples, loader(StackDataset(CLASSES, SETS))), ("1", "2")),
        ((Two(lambda a, b: {"b": b, "a": a}), of_names, loader(NAMED)), ("a", "b")),
        (
            Subject(Two(lambda a, b: (a, b)), of_names, loader(NAMED), logits=lambda o: {"a": o[0], "b": o[1]}),
            ("a", "b"),
        ),
    ],
)
def test_outputs_and_labels_are_tuples_or_have_names(client: Any, names: tuple[str, str]) -> None:
    subject = load_subject(lambda: client, "mine")
    assert subject.heads == (LabelHead(names[0], "class", (), 3), LabelHead(names[1], "set", (2,), 2))
    assert subject.notes == (
        f"Understood: a model with 2 heads, '{names[0]}' (3 classes), '{names[1]}' (2 labels of 0 and 1); 4 "
        "tensors are sent.",
    )
    sound = check_subject(subject, "mine")
    assert sound.task.name == "multi-head"
    batch, model = sound.dataset.train, Two(lambda a, b: (a, b))
    expected = of_tuples(model(batch.inputs), (CLASSES[:12], SETS[:12]))
    torch.testing.assert_close(sound.loss(sound.model(batch.inputs), batch.labels), expected)


def test_numbers_and_maps_of_classes_are_heads_too() -> None:
    def loss(outputs: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(outputs[0][:, 0], labels[0]) + F.cross_entropy(outputs[1], labels[1])

    maps = torch.randint(2, (24, 1, 1), generator=torch.Generator().manual_seed(0))
    model = Two(lambda a, b: (a[:, :1], b[:, :, None, None]))
    subject = load_subject(lambda: (model, loss, loader(StackDataset(INPUTS.mean((1, 2, 3)), maps))), "mine")
    assert subject.heads == (LabelHead("1", "numbers", (), 1), LabelHead("2", "mask", (1, 1), 2))
    assert "'1' (1 number), '2' (2 classes of each place)" in subject.notes[0]
    assert check_subject(subject, "mine").task.name == "multi-head"


@pytest.mark.parametrize(
    ("client", "message"),
    [
        ((Two(lambda a, b: (a, b)), None, loader(NAMED)), "has several heads and no loss"),
        ((Two(lambda a, b: a), of_names, loader(NAMED)), r"returns a single tensor \(8, 3\), and labels have parts"),
        ((Two(lambda a, b: {"a": a, "c": b}), of_names, loader(NAMED)), "returns a, c, and labels are a, b"),
        (
            (Two(lambda a, b: (a, b)), of_names, [(INPUTS[:2], {"a": CLASSES[:2], "b": BOXES})]),
            r"labels 'b' of 'mine' are list for 2 examples.*Convert boxes of varying number to a grid",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(client: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        load_subject(lambda: client, "mine")


def test_labels_of_one_part_are_left_to_others() -> None:
    client = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), None, loader(CLASSES))
    assert load_subject(lambda: client, "mine").heads == ()
