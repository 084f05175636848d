"""Rows of a table from an update: read exactly by what works on a first layer, and scored."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import nn

from fedsim.audit.subject import Subject, check_subject
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Config, Dataset, Reconstruction, WireEntry
from fedsim.federation.client import local_training
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.record import ItemScore
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.tasks.core.fitting import usual_task
from fedsim.tasks.tabular import Tabular
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.audit.adapters.recovering import share
from tests.conftest import KNOWN
from tests.tasks.truths import truth

Build = Callable[..., Scenario]
TABLE = {"data": {"name": "breast-cancer"}, "model": {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0}}


def victim(scenario: Build, batch_size: int) -> Victim:
    world = worlds.build(scenario(**TABLE, federation={"clients": 4, "batch_size": batch_size}))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4)])
def test_exact_attacks_read_rows(scenario: Build, attack: str, batch_size: int) -> None:
    own, method = victim(scenario, batch_size), registry.get("attack", attack)
    found = method.make(method.config())(observe(own, KNOWN), seeding.generator(0, "test"), lambda _step: None)
    items = score(own, found).record.scores
    assert [item.values["row_exact"] for item in items] == [1.0] * batch_size
    assert all(item.values["number_error"] < 0.01 < item.values["number_error_guessed"] for item in items)
    assert items[0].text is not None
    assert len(items[0].text.split()) == 30
    ceiling = ceiling_of(own).ceiling
    assert ceiling.rank == 30 * batch_size
    assert all(item.values["row_exact"] == 1.0 for item in ceiling.scores)


def test_a_missing_row_has_the_worst_values(scenario: Build) -> None:
    own = victim(scenario, 2)
    rows = own.truth.original_batches[0]
    guess = Reconstruction.of(rows.inputs[1:], rows.labels[1:])
    items = score(own, guess).record.scores
    assert [item.is_missing for item in items] == [True, False]
    assert (items[0].values["row_exact"], items[1].values["row_exact"]) == (0.0, 1.0)


def test_labels_are_scored_with_their_rows_in_whatever_order_they_were_guessed(scenario: Build) -> None:
    own = victim(scenario, 6)
    rows = own.truth.original_batches[0]
    turned = torch.arange(6).roll(1)
    assert not torch.equal(rows.labels, rows.labels[turned])
    found = score(own, Reconstruction.of(rows.inputs[turned], rows.labels[turned])).record
    assert (
        [item.guessed_label for item in found.scores] == [item.label for item in found.scores] == rows.labels.tolist()
    )
    assert all(item.values["row_exact"] == 1.0 for item in found.scores)
    assert found.values["label_accuracy"] == 1.0


def test_images_are_no_rows(scenario: Build) -> None:
    with pytest.raises(FedsimError, match="it reads rows of a table or windows of a series, and an example has shape"):
        worlds.build(scenario(task="tabular")).check()


class Transpose(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.mT


def waves(is_channels_first: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a Conv1d model, windows of 3 channels and 7 times in one layout, and their classes."""
    source = torch.Generator().manual_seed(4)
    windows = torch.randn(12, 3, 7, generator=source) * torch.tensor([0.5, 2.0, 7.0])[:, None]
    torch.manual_seed(1)
    layers = [nn.Conv1d(3, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(35, 4)]
    if is_channels_first:
        return nn.Sequential(*layers), windows, torch.arange(12) % 4
    return nn.Sequential(Transpose(), *layers), windows.mT.contiguous(), torch.arange(12) % 4


@pytest.mark.parametrize("is_channels_first", [True, False])
def test_windows_in_both_layouts_are_read_from_updates_of_a_convolution(is_channels_first: bool) -> None:
    model, windows, classes = waves(is_channels_first)
    subject = Subject(model, nn.CrossEntropyLoss(), [(windows, classes)])
    found = check_subject(subject, "test")
    assert (found.task.name, found.task.noun_of(found.dataset.spec)) == ("tabular", "row")
    assert found.dataset.spec.shape == tuple(windows.shape[1:])
    assert share(subject) == 1.0


def test_windows_are_scored_number_by_number(samples: dict[str, Dataset]) -> None:
    task, labels = Tabular(Config()), torch.arange(20) % 4
    series = samples["series"]
    data = replace(series, train=Batch(series.train.inputs, labels), test=Batch(series.train.inputs, labels), task="")
    assert usual_task(data) == "tabular"
    two = data.train.select(torch.tensor([4, 9]))
    guess = Reconstruction.of(two.inputs.flip(0).index_fill(1, torch.tensor([2]), 50.0), two.labels.flip(0))
    items = cast("tuple[ItemScore, ...]", task.score(truth(two), two, guess, data).items)
    assert [item.guessed_label for item in items] == two.labels.tolist()
    assert all(item.values["cells_right"] == pytest.approx(10 / 12) for item in items)  # one of 6 times is wrong
    assert all(item.values["row_exact"] == 0.0 for item in items)
    (shown, _) = task.show(two.inputs, data)
    assert shown.split() == [f"{number:.2f}" for number in two.inputs[0].flatten().tolist()]
