"""Base class of tasks with numbers as labels: squared, Huber or absolute error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.core.nets.losses import shaped_as
from fedsim.core.types import Config, Dataset, InputSpec, LabelKind
from fedsim.core.types.tasks import Model
from fedsim.metrics import targets as metrics
from fedsim.metrics.testing import test_rmse
from fedsim.tasks.core.targets import TargetScore, TargetTask

_NEAR = 0.5  # standard deviations within which an answer counts as right


class NumbersConfig(Config):
    """Settings of tasks with numbers as labels."""

    loss: Literal["squared", "huber", "absolute"] = Field(
        default="squared", description="of an error e: e^2; e^2 / 2 up to the width w and w |e| - w^2 / 2 beyond; |e|"
    )
    width: float = Field(default=1.0, gt=0, description="w of the Huber loss, in units of the labels")


class NumberTask(TargetTask[NumbersConfig]):
    """Base class of tasks with numbers as labels."""

    label_kind: ClassVar[LabelKind] = "numbers"
    accuracy_in_words: ClassVar[str] = "the share of numbers that are answered within half a standard deviation"

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return an error if a label is not finite, or None."""
        return None if bool(labels.isfinite().all()) else "a label is not finite"

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...] | None:
        """Return the shape of the labels; None, which accepts any shape, for labels (B,)."""
        return tuple(labels.shape) if labels.ndim > 1 else None

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, the mean over its numbers."""
        error = (outputs - shaped_as(targets, outputs)).reshape(len(outputs), -1)
        match self.config.loss:
            case "squared":
                number_losses = error.square()
            case "huber":
                number_losses = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.config.width)
            case "absolute":
                number_losses = error.abs()
        return number_losses.mean(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the root mean squared error on the test set, in standard deviations of the training labels."""
        return {"test_rmse": test_rmse(self.outputs_of(model, data), data.test.labels, metrics.spread(data)[1])}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return the share of an example's numbers that are predicted within half a standard deviation."""
        error = (outputs - shaped_as(labels, outputs)).reshape(len(outputs), -1).abs()
        error = error / metrics.spread(data)[1].flatten()
        return (error <= _NEAR).double().mean(1)

    def usual_answer(self, data: Dataset) -> Tensor:
        """Return the mean of the training labels."""
        return metrics.spread(data)[0].reshape(1, -1)

    def target_score(self, data: Dataset) -> TargetScore:
        """Return a scorer of numbers, with their mean as baseline."""
        return partial(_scores, *metrics.spread(data))


def _scores(mean: Tensor, std: Tensor, guess: Tensor, target: Tensor) -> Mapping[str, float]:
    return {
        "target_error": metrics.target_error(guess, target, std),
        "target_error_guessed": metrics.target_error_guessed(target, mean, std),
        "target_read": metrics.target_read(guess, target, std),
    }


def refuses_numbers(data: Dataset) -> str | None:
    """Return why labels are not floating-point numbers, or None."""
    labels = data.train.labels
    if not labels.is_floating_point():
        return "it needs numbers as labels, and they are classes"
    if bool(((labels == 0) | (labels == 1)).all()):
        return "it needs numbers as labels, and they are all 0 or 1"
    return None
