"""Multi-label: a model predicts which of K labels apply to every image, row or window.

    loss = -[y log s + (1 - y) log(1 - s)], s = sigmoid(output), the mean over the K labels, then over the examples

Labels are 0 or 1, (B, K). Test metric: the share of correct labels. Guesses are scored as images or rows; the guessed
label set is scored with the baseline of the frequent labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.nets.losses import shaped_as
from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, InputSpec, LabelKind
from fedsim.core.types.tasks import Model
from fedsim.metrics import targets as metrics
from fedsim.metrics.testing import test_accuracy
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.targets import TargetScore, TargetTask


@final
@task("multi-label", summary="which of several things hold, for every image, row or window")
class MultiLabel(TargetTask[Config]):
    """Binary cross-entropy of label sets."""

    label_kind: ClassVar[LabelKind] = "set"

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are tokens, or labels are not rows of 0 and 1, or None."""
        labels = data.train.labels
        why = refuses_inputs(data, tokens=False)
        if why is not None or _are_sets(labels):
            return why
        return (
            f"it needs a row of 0 and 1 for each example, and labels are {labels.dtype} of shape {tuple(labels.shape)}"
        )

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return an error if a label is neither 0 nor 1, or None."""
        return None if bool(((labels == 0) | (labels == 1)).all()) else "a label is neither 0 nor 1"

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...] | None:
        """Return the shape of the labels; None, which accepts any shape, for labels (B,)."""
        return tuple(labels.shape) if labels.ndim > 1 else None

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's binary cross-entropy, the mean over its labels."""
        truth = shaped_as(targets, outputs).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").reshape(len(outputs), -1).mean(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the share of correct labels on the test set."""
        outputs, labels = self.outputs_of(model, data), data.test.labels
        return {"test_accuracy": test_accuracy(outputs.reshape(labels.shape) > 0, labels > 0)}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return the share of an example's correct labels."""
        return ((outputs.reshape(labels.shape) > 0) == (labels > 0)).double().reshape(len(labels), -1).mean(1)

    def usual_answer(self, data: Dataset) -> Tensor:
        """Return a positive logit for each label that more than half of the training examples have."""
        return (data.train.labels.double().mean(0) - 0.5).reshape(1, -1)

    def target_score(self, data: Dataset) -> TargetScore:
        """Return a scorer of label sets, with the frequent labels as baseline."""
        return partial(_scores, metrics.spread(data)[0])


def _are_sets(labels: Tensor) -> bool:
    """Return whether labels are rows of 0 and 1, or a vector of floating-point 0 and 1."""
    is_row = labels.ndim == 2 or (labels.ndim == 1 and labels.is_floating_point())  # noqa: PLR2004 - (B, K)
    return is_row and bool(((labels == 0) | (labels == 1)).all())


def _scores(mean: Tensor, guess: Tensor, target: Tensor) -> Mapping[str, float]:
    return {
        "set_read": metrics.set_read(guess, target),
        "set_f1": metrics.set_f1(guess, target),
        "set_f1_guessed": metrics.set_f1_guessed(target, mean),
    }
