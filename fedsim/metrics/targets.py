"""Accuracy of guessed targets, each with a baseline from public targets.

Targets are labels other than a single class: numbers, sets of binary labels, or a class for each pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Dataset

ROUNDING = 1e-3  # standard deviations up to which a number counts as recovered
_WORST = 10.0


def align_guesses(guesses: Tensor, targets: Tensor) -> Tensor:
    """Reshape guessed targets to the true shape, float64; all NaN if the number of values differs.

    Args:
        guesses: shape (B, ...); NaN and negative classes are missing guesses.
        targets: the client's targets, shape (B, ...).
    """
    if guesses.numel() == targets.numel():
        return guesses.double().reshape(targets.shape)
    return torch.full(targets.shape, torch.nan, dtype=torch.float64)


def spread(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of public targets, each of a target's shape; 1 for constant entries."""
    targets = data.train.labels.double()
    std = targets.std(0, correction=0)
    return targets.mean(0), std.where(std > 0, torch.ones_like(std))


@registry.metric(
    "target_error",
    title="target error",
    summary="of an example: root mean squared error of its target, in standard deviations of public targets",
    over="item",
    better="lower",
    statistics={"target_error": "median"},
    limits=(0.0, None),
    worst=_WORST,
    unit="sd",
    noun="target",
    table="Targets",
)
def target_error(guess: Tensor, target: Tensor, std: Tensor) -> float:
    """Return the error of numbers of any shape; 10 for a missing guess."""
    error = ((guess.double() - target.double()) / std).square().mean().sqrt()
    return float(error) if bool(error.isfinite()) else _WORST


@registry.metric(
    "target_error_guessed",
    title="target error by the mean",
    summary="of an example: the same of a guess that knows nothing but the mean of public targets",
    over="item",
    better="lower",
    statistics={"target_error_guessed": "median"},
    limits=(0.0, None),
    worst=_WORST,
    unit="sd",
    noun="target",
    compared=False,
    table="Targets",
)
def target_error_guessed(target: Tensor, mean: Tensor, std: Tensor) -> float:
    """Return `target_error` of the mean."""
    return target_error(mean, target, std)


@registry.metric(
    "target_read",
    title="target read",
    summary="of an example: whether every number of its target is within a thousandth of a standard deviation",
    over="item",
    form="flag",
    digits=0,
    statistics={"target_read": "share"},
    worst=0.0,
    noun="target",
    verdict="read",
    is_success_count=True,
    table="Targets",
)
def target_read(guess: Tensor, target: Tensor, std: Tensor) -> float:
    """Return 1 if numbers of any shape were recovered up to rounding, else 0."""
    return float(bool((((guess.double() - target.double()) / std).abs() <= ROUNDING).all()))


@registry.metric(
    "set_f1",
    title="labels F1",
    summary="of an example: F1 of the set of its labels",
    over="item",
    form="percent",
    digits=0,
    statistics={"set_f1": "mean"},
    worst=0.0,
    noun="target",
    table="Targets",
)
def set_f1(guess: Tensor, target: Tensor) -> float:
    """Return the F1 of a set of 0 and 1, in [0, 1]; 1 if both are empty; missing guesses count as 0."""
    named, true = guess.nan_to_num() > 0.5, target > 0.5  # noqa: PLR2004 - nearer to 1 than to 0
    if not bool(named.any() | true.any()):
        return float(not bool(guess.isnan().any()))
    return 2.0 * float((named & true).sum()) / float(named.sum() + true.sum())


@registry.metric(
    "set_f1_guessed",
    title="labels F1 by frequency",
    summary="of an example: the same of a guess of the labels that at least half of public examples have",
    over="item",
    form="percent",
    digits=0,
    statistics={"set_f1_guessed": "mean"},
    worst=0.0,
    noun="target",
    compared=False,
    table="Targets",
)
def set_f1_guessed(target: Tensor, mean: Tensor) -> float:
    """Return `set_f1` of the labels that at least half of public examples have, or else of the most frequent label.

    Args:
        target: the client's target.
        mean: share of public examples with each label.
    """
    return set_f1((mean >= mean.max().clamp_max(0.5)).double(), target)


@registry.metric(
    "set_read",
    title="labels read",
    summary="of an example: whether its whole set of labels was guessed",
    over="item",
    form="flag",
    digits=0,
    statistics={"set_read": "share"},
    worst=0.0,
    noun="target",
    verdict="read",
    is_success_count=True,
    table="Targets",
)
def set_read(guess: Tensor, target: Tensor) -> float:
    """Return 1 if a set of 0 and 1 was guessed exactly, else 0."""
    return float(bool((guess.double() == target.double()).all()))


@registry.metric(
    "mask_iou",
    title="mask IoU",
    summary="of an image: intersection over union of its mask, the mean over the classes that it shows",
    over="item",
    form="percent",
    digits=0,
    statistics={"mask_iou": "mean"},
    worst=0.0,
    noun="target",
    table="Targets",
)
def mask_iou(guess: Tensor, mask: Tensor, counted: Tensor) -> float:
    """Return the mean intersection over union, in [0, 1].

    Args:
        guess: classes of pixels, of any shape; negative or NaN for missing guesses.
        mask: the client's mask.
        counted: pixels that count, of the same shape.
    """
    guess, mask = guess.double()[counted], mask.double()[counted]
    classes = mask.unique()
    intersections = [float(((guess == class_) & (mask == class_)).sum()) for class_ in classes]
    unions = [float(((guess == class_) | (mask == class_)).sum()) for class_ in classes]
    return sum(a / b for a, b in zip(intersections, unions, strict=True)) / len(classes) if len(classes) else 0.0


@registry.metric(
    "mask_iou_guessed",
    title="mask IoU by frequency",
    summary="of an image: the same metric for a mask with the most frequent class of public masks at every pixel",
    over="item",
    form="percent",
    digits=0,
    statistics={"mask_iou_guessed": "mean"},
    worst=0.0,
    noun="target",
    compared=False,
    table="Targets",
)
def mask_iou_guessed(mask: Tensor, usual: Tensor, counted: Tensor) -> float:
    """Return `mask_iou` of the most frequent mask."""
    return mask_iou(usual, mask, counted)


@registry.metric(
    "heads_read",
    title="heads read",
    summary="of an example: share of the labels of each head that are read, the mean over the heads",
    over="item",
    form="percent",
    digits=0,
    statistics={"heads_read": "mean"},
    worst=0.0,
    noun="target",
    table="Targets",
)
def heads_read(shares: Tensor) -> float:
    """Return the mean over heads of the share of recovered labels, shape (heads,)."""
    return float(shares.mean())


@registry.metric(
    "heads_guessed",
    title="heads by frequency",
    summary=(
        "of an example: the same metric for a guess with the most frequent public value, or the public mean of numbers"
    ),
    over="item",
    form="percent",
    digits=0,
    statistics={"heads_guessed": "mean"},
    worst=0.0,
    noun="target",
    compared=False,
    table="Targets",
)
def heads_guessed(shares: Tensor) -> float:
    """Return `heads_read` of the most frequent labels."""
    return heads_read(shares)
