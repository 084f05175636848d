"""Inputs and targets are scored side by side, each target with the input that it was guessed with."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from fedsim.core.types import Batch, Config, Dataset, InputSpec, LabelKind, Reconstruction
from fedsim.core.types.tasks import Model
from fedsim.tasks.core.targets import TargetScore, TargetTask
from tests.tasks.truths import truth

IMAGES, ROWS, SERIES = (1, 4, 4), (5,), (6, 2)


class Told(TargetTask[Config]):
    """Says how far a guessed target is off."""

    label_kind: ClassVar[LabelKind] = "numbers"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        return {"seen": float(len(self.outputs_of(model, data)))}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        return (outputs == labels).double().mean(1)

    def usual_answer(self, data: Dataset) -> Tensor:
        return data.train.labels.mean(0)[None]

    def target_score(self, data: Dataset) -> TargetScore:
        return lambda guess, true: {"target_error": float((guess - true).abs().max())}


def data(shape: tuple[int, ...]) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    batch = Batch(torch.rand(6, *shape, generator=generator), torch.randn(6, 2, generator=generator))
    return Dataset(batch, batch, InputSpec(shape, 2, (0.0,) * shape[0], (1.0,) * shape[0]), ("a", "b"))


@pytest.mark.parametrize("shape", [IMAGES, ROWS, SERIES])
def test_targets_follow_their_inputs(shape: tuple[int, ...]) -> None:
    task, one = Told(Config()), data(shape)
    turned = torch.arange(6).roll(1)
    guess = Reconstruction.of(one.train.inputs[turned], one.train.labels[turned])
    scored = task.score(truth(one.train), one.train, guess, one)
    assert [item.values["target_error"] for item in scored.items] == [0.0] * 6
    assert {item.label for item in scored.items} == {None}
    assert ("psnr" in scored.items[0].values) is (shape == IMAGES)
    assert not scored.values


def test_a_missing_example_has_no_target_either() -> None:
    task, one = Told(Config()), data(ROWS)
    scored = task.score(truth(one.train), one.train, Reconstruction.of(one.train.inputs[:5], one.train.labels[:5]), one)
    assert torch.tensor([item.values["target_error"] for item in scored.items]).isnan().tolist() == [False] * 5 + [True]


def test_classes_in_place_of_numbers_are_no_targets() -> None:
    task, one = Told(Config()), data(ROWS)
    scored = task.score(truth(one.train), one.train, Reconstruction.of(one.train.inputs), one)
    assert all(torch.tensor(item.values["target_error"]).isnan() for item in scored.items)


@pytest.mark.parametrize(("shape", "noun"), [(IMAGES, "image"), (ROWS, "row"), (SERIES, "row")])
def test_examples_are_called_and_shown_as_what_they_are(shape: tuple[int, ...], noun: str) -> None:
    task, one = Told(Config()), data(shape)
    assert task.noun_of(one.spec) == noun
    assert isinstance(task.show(one.train.inputs, one), tuple) is (noun == "row")


def test_a_test_set_is_answered_whole() -> None:
    assert Told(Config()).evaluate(lambda inputs: inputs[:, :2], data(ROWS), torch.Generator()) == {"seen": 6.0}
