"""What a loader may yield, and thirty things that it may not, each with one sentence."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.pairs import convert_labels, pair_of
from fedsim.audit.subject import Subject, check_subject
from fedsim.audit.trial_step import _WRAPPER
from fedsim.core.errors import FedsimError

ROWS, CLASSES = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
IMAGES = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def net(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 4), nn.ReLU(), nn.Linear(4, outputs))


def with_nan(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = torch.nan
    return changed


def failing() -> Iterable[Any]:
    yield ROWS, CLASSES
    raise OSError("the disk is gone")


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 1)])

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(head(inputs) for head in self.heads)


class OfMapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, parts: dict[str, Tensor]) -> Tensor:
        return self.head(parts["images"])


Wrong = tuple[nn.Module, Callable[..., Any] | None, Any]
WRONG: dict[str, tuple[Wrong, str]] = {
    "an empty loader": ((net(6, 3), None, []), "yields 0 examples, expected at least 2"),
    "no loader": ((net(6, 3), None, 7), "failed: TypeError: 'int' object is not iterable"),
    "a loader that fails": ((net(6, 3), None, failing()), "failed: OSError: the disk is gone"),
    "tensors alone": ((net(6, 3), None, [ROWS]), r"yields Tensor, expected \(images, labels\) or a mapping"),
    "three things": ((net(6, 3), None, [(ROWS, CLASSES, CLASSES)]), "yields 3 things at once, expected two"),
    "an image, facts, a label": ((net(6, 3), None, [(ROWS, {}, CLASSES)]), r"\[\(images, labels\) for images, _"),
    "a forward of a mapping": ((OfMapping(), None, [(ROWS, CLASSES)]), r"wrap it:\n  class OfTensor\(nn.Module\):\n"),
    "a mapping without inputs": (
        (net(6, 3), None, [{"data": ROWS, "labels": CLASSES}]),
        "yields a mapping without examples: it has data, labels, expected any of pixel_values, inputs",
    ),
    "a mapping without labels": (
        (net(6, 3), None, [{"x": ROWS, "answers": CLASSES}]),
        "yields a mapping without labels: it has x, answers, expected any of labels, label, targets",
    ),
    "arrays": ((net(6, 3), None, [(ROWS.numpy(), CLASSES.numpy())]), "yields examples of type ndarray, expected a"),
    "labels in a list": ((net(6, 3), None, [(ROWS, CLASSES.tolist())]), "yields labels of type list"),
    "sparse rows": ((net(6, 3), None, [(ROWS.to_sparse(), CLASSES)]), "yields examples as a sparse or complex tensor"),
    "bytes": ((net(25, 3), None, [((255 * IMAGES).to(torch.uint8), CLASSES)]), "Pixels of 0 to 255 become numbers"),
    "whole numbers": ((net(6, 3), None, [(CLASSES[:, None], CLASSES)]), r"yields torch.int64 of shape \(8, 1\)"),
    "no dimension of columns": ((net(6, 3), None, [(ROWS[:, 0], CLASSES)]), r"yields torch.float32 of shape \(8,\)"),
    "images of two pixels": (
        (net(4, 3), None, [(IMAGES[..., :2, :2], CLASSES)]),
        r"of shape \(8, 1, 2, 2\), expected im",
    ),
    "nan in rows": ((net(6, 3), None, [(with_nan(ROWS), CLASSES)]), "yields images with values that are not finite"),
    "nan in targets": ((net(6, 1), F.mse_loss, [(ROWS, with_nan(ROWS[:, :1]))]), "yields labels that are not finite"),
    "fewer labels": ((net(6, 3), None, [(ROWS, CLASSES[:5])]), "yields 5 labels for 8 examples, expected a label for"),
    "a label for all": ((net(6, 3), None, [(ROWS, torch.tensor(1))]), "yields one number for 8 examples"),
    "a class below 0": ((net(6, 3), None, [(ROWS, CLASSES.sort().values.flip(0) - 1)]), "label -1 is out of range"),
    "a class too many": (
        (net(6, 3), None, [(ROWS, CLASSES.roll(3).sort().values + 1)]),
        "a label is 3, but the model sc",
    ),
    "two heads": ((Pair(), None, [(ROWS, CLASSES)]), r"returns tuple without 'logits'; give Subject\(logits=...\)"),
    "scores of too few examples": (
        (nn.Sequential(nn.Linear(6, 3), nn.Flatten(0)), None, [(ROWS, CLASSES)]),
        r"the model of 'client' returns \(6,\), expected scores of shape \(2, classes\)",
    ),
    "another width": ((net(9, 3), None, [(ROWS, CLASSES)]), r"fails on 2 examples of shape \(6,\)"),
    "a loss of other labels": ((net(6, 3), F.mse_loss, [(ROWS, CLASSES)]), "the loss of 'client' "),
    "a label against three numbers": (
        (net(6, 3), F.mse_loss, [(ROWS, ROWS[:, 0])]),
        r"compares scores of shape \(2, 3\) with labels of shape \(2,\), each with each. Give both the same shape",
    ),
    "a label against two numbers, broadcast in silence": (
        (net(6, 2), lambda outputs, labels: (outputs - labels).square().mean(), [(ROWS, ROWS[:, 0])]),
        r"returns 2 numbers for each example, and the loader yields 1. Give both as many",
    ),
    "a loss that is a word": ((net(6, 3), "ce", [(ROWS, CLASSES)]), "of type str, expected a function of scores and l"),  # type: ignore[dict-item]
    "a loss that was not made": (
        (net(6, 3), nn.CrossEntropyLoss, [(ROWS, CLASSES)]),
        r"is the class CrossEntropyLoss, expected CrossEntropyLoss\(\)",
    ),
    "numbers without a loss": ((net(6, 1), None, [(ROWS, ROWS[:, 0])]), "are numbers, and without a loss the client"),
    "a model that was not made": (
        (nn.Linear, None, [(ROWS, CLASSES)]),
        r"the class Linear for the model, expected Linear",
    ),  # type: ignore[dict-item]
    "a frozen model": ((net(6, 3).requires_grad_(False), None, [(ROWS, CLASSES)]), "has nothing to train: all its"),
    "a loss for each example": (
        (net(6, 3), nn.CrossEntropyLoss(reduction="none"), [(ROWS, CLASSES)]),
        "the loss of 'client' fails on the model's scores: RuntimeError: grad can be implicitly created",
    ),
    "a loss that is no number": ((net(6, 3), lambda z, y: z.sum() / 0, [(ROWS, CLASSES)]), "expected a single finite"),
    "a loss without slope": ((net(6, 3), lambda z, y: 0 * z.sum(), [(ROWS, CLASSES)]), "is zero everywhere: it would"),
    "numbers for pixels": (
        (nn.Conv2d(1, 1, 1), F.mse_loss, [(IMAGES, IMAGES)]),
        r"which no task supports. Supported are a class \(B,\), numbers .* several of these by name",
    ),
    "two views": (
        (net(25, 25), lambda one, other: (one @ other.flatten(1).T).mean(), [(IMAGES, IMAGES.flip(-1))]),
        r"For two views of an example use Subject\(views='halves'\), or 'stacked'",
    ),
    "two views and a class": (
        (net(25, 3), None, [((IMAGES, IMAGES.flip(-1)), CLASSES)]),
        r"yields examples of type tuple, .* For two views of each example use Subject\(views='halves'\)",
    ),
    "other kinds in one loader": (
        (net(6, 3), None, [(ROWS, CLASSES), (ROWS[:, :3], CLASSES)]),
        "Sizes of tensors must ma",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_one_sentence_that_names_the_remedy(mistake: str) -> None:
    (model, loss, loader), message = WRONG[mistake]
    with pytest.raises(FedsimError, match=message) as raised:
        check_subject(Subject(model, loss, loader), "client")
    said = str(raised.value)
    sentence, wrapper, _code = said.partition("rap it:\n")
    assert "\n" not in sentence
    assert wrapper or sentence.endswith(".")


def test_classes_are_whole_numbers_and_everything_else_is_kept() -> None:
    assert pair_of((ROWS.double(), CLASSES.to(torch.int32)), "it")[1].dtype == torch.long
    assert pair_of((ROWS.double(), CLASSES), "it")[0].dtype == torch.float32
    for labels in (ROWS[:, :2].double(), (ROWS > 0.5).long(), ROWS[:, 0]):
        assert pair_of((ROWS, labels), "it")[1].dtype == labels.dtype
    assert pair_of({"features": ROWS, "target": CLASSES, "name": ["a"] * 8}, "it")[1] is not None
    assert np.array_equal(pair_of([ROWS, CLASSES], "it")[0].numpy(), ROWS.numpy())


def test_whole_numbers_beside_one_output_are_no_classes() -> None:
    assert convert_labels(CLASSES, 3).dtype == torch.long
    assert convert_labels(CLASSES, 1).dtype == torch.float32
    assert convert_labels(ROWS, 1) is ROWS


def test_the_wrapper_that_is_shown_makes_a_forward_of_a_mapping_work() -> None:
    names: dict[str, Any] = {"nn": nn}
    exec(_WRAPPER.partition("\n")[2].replace("\n  ", "\n")[2:], names)
    own = check_subject(Subject(names["OfTensor"](OfMapping()), None, [(ROWS, CLASSES)]), "client")
    assert own.dataset.spec.classes == 3
