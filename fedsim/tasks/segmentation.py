"""Segmentation: a model predicts a class for every pixel of an image.

    loss = mean over the pixels of -log softmax(outputs)_class, then over the images; of masks of 0 and 1 -log sigmoid

Labels are classes (B, H, W), with -100 ignored, or masks of 0 and 1, (B, K, H, W). Outputs: (B, K, H, W). Volumes have
one more dimension. Test metric: the share of correct pixels. Guesses are scored as images; a guessed mask is scored by
its intersection over union, with the baseline of the most frequent class of every pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.core.nets.losses import IGNORED
from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset, InputSpec, LabelKind
from fedsim.core.types.tasks import Model
from fedsim.metrics import targets as metrics
from fedsim.metrics.testing import test_accuracy
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.targets import TargetScore, TargetTask


@final
@task("segmentation", summary="a class for every pixel of an image")
class Segmentation(TargetTask[Config]):
    """Cross-entropy of pixels."""

    label_kind: ClassVar[LabelKind] = "mask"

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not images with masks of their size, or None."""
        labels, spec = data.train.labels, data.spec
        why = refuses_inputs(data, tokens=False)
        if why is not None:
            return why
        places = spec.shape[1:]
        if not spec.is_image or labels.shape[-len(places) :] != places or not _are_masks(labels, spec):
            return (
                f"it needs a class for every pixel, (B, H, W), or masks of 0 and 1, (B, K, H, W), and labels are "
                f"{labels.dtype} of shape {tuple(labels.shape)} for examples of shape {spec.shape}"
            )
        return None

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return an error for an invalid class, or None."""
        largest = spec.classes - 1 if _are_maps(labels, spec) else 1
        strangers = labels[((labels < 0) | (labels > largest)) & (labels != IGNORED)]
        return f"label {int(strangers[0])} is out of range, expected 0 to {largest}" if len(strangers) else None

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return the shape of logits for each class at each pixel."""
        return (len(labels), spec.classes, *spec.shape[1:])

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each image's cross-entropy, the mean over the pixels that are not ignored."""
        if targets.ndim == outputs.ndim:
            truth = targets.to(outputs.dtype)
            return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").flatten(1).mean(1)
        pixel_losses = F.cross_entropy(outputs, targets, reduction="none", ignore_index=IGNORED).flatten(1)
        return pixel_losses.sum(1) / (targets != IGNORED).flatten(1).sum(1).clamp_min(1)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the share of correct pixels on the test set."""
        answers, labels = _answers(self.outputs_of(model, data), data.test.labels), data.test.labels
        counted = labels != IGNORED
        return {"test_accuracy": test_accuracy(answers[counted], labels[counted])}

    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return the share of an image's correct pixels."""
        counted = (labels != IGNORED).flatten(1)
        right = (_answers(outputs, labels) == labels).flatten(1) & counted
        return right.sum(1) / counted.sum(1).clamp_min(1)

    def usual_answer(self, data: Dataset) -> Tensor:
        """Return logits that predict the most frequent class of every pixel."""
        usual = _usual(data)
        if not _are_maps(data.train.labels, data.spec):
            return usual[None] - 0.5
        return F.one_hot(usual, data.spec.classes).movedim(-1, 0)[None].double()

    def target_score(self, data: Dataset) -> TargetScore:
        """Return a scorer of masks, with the most frequent mask as baseline."""
        return partial(_scores, _usual(data))


def _are_maps(labels: Tensor, spec: InputSpec) -> bool:
    """Return whether labels are class maps (B, *places), not masks of 0 and 1, (B, K, *places)."""
    return labels.ndim == len(spec.shape)


def _are_masks(labels: Tensor, spec: InputSpec) -> bool:
    if _are_maps(labels, spec):
        return not labels.is_floating_point()
    return labels.ndim == len(spec.shape) + 1 and bool(((labels == 0) | (labels == 1)).all())


def _answers(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the predictions of outputs, in the shape of the labels."""
    return (outputs > 0).to(labels.dtype) if labels.ndim == outputs.ndim else outputs.argmax(1)


def _usual(data: Dataset) -> Tensor:
    """Return the most frequent class of every pixel, in the shape of a label."""
    labels = data.train.labels
    if not _are_maps(labels, data.spec):
        return (labels.double().mean(0) > 0.5).double()  # noqa: PLR2004 - one half
    return torch.stack([(labels == label).sum(0) for label in range(data.spec.classes)]).argmax(0)


def _scores(usual: Tensor, guess: Tensor, target: Tensor) -> Mapping[str, float]:
    counted = target != IGNORED
    return {
        "mask_iou": metrics.mask_iou(guess, target, counted),
        "mask_iou_guessed": metrics.mask_iou_guessed(target, usual, counted),
    }
