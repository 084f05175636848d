"""Accuracy of inferred labels, compared as multisets.

A gradient is a sum over examples, so it does not contain the order of the labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import NO_LABEL


def classes_of(labels: Tensor) -> list[int | None]:
    """Return the class of each example; None for missing guesses, and for labels (B, ...) that are no classes."""
    if labels.ndim > 1 or labels.is_floating_point():
        return [None] * len(labels)
    return [None if label == NO_LABEL else label for label in labels.tolist()]


@registry.metric(
    "label_accuracy",
    title="labels right",
    summary="share of the labels behind an update that were guessed, in any order",
    over="update",
    form="percent",
    digits=0,
    statistics={"label_accuracy": "mean"},
    is_success_count=True,
)
def label_accuracy(guessed: Iterable[int | None], true: Iterable[int | None]) -> float:
    """Return the share of true labels that were guessed, in [0, 1], in any order.

    Size of the intersection of both multisets over the number of true labels: two guesses of a class that occurs once
    count once. None counts as no guess.

    Raises:
        ValueError: no true labels are given.
    """
    wanted = Counter(label for label in true if label is not None)
    if not wanted:
        raise ValueError("label accuracy needs at least one true label")
    named = Counter(label for label in guessed if label is not None)
    return (named & wanted).total() / wanted.total()
