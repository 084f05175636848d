"""Limits of an attack's answer, checked by the scorer.

The scorer matches guesses to examples. With more guesses than examples the ground truth would select among the guesses;
the same holds for a box that contains every row. An attack in a subprocess may return anything, so the checks of its
base class do not suffice.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedsim.core.errors import FedsimError


def check_count(count: int, limit: int, label: str) -> None:
    """Check that an answer has no more parts than the ground truth.

    Args:
        count: number of parts in the answer.
        limit: number of parts in the ground truth.
        label: name of the parts, in the plural.

    Raises:
        FedsimError: the count exceeds the limit.
    """
    if count > limit:
        raise FedsimError(f"the answer has {count:,} {label}, expected at most {limit:,}.")


def check_shape(answer: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the answer after checking its shape.

    Raises:
        FedsimError: the answer has another shape.
    """
    if tuple(answer.shape) != tuple(shape):
        raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected {tuple(shape)}.")
    return answer


def check_bounds(bounds: Tensor) -> None:
    """Check that every box has at least one finite bound.

    Args:
        bounds: lower and upper bounds of each box, shape (N, 2 D).

    Raises:
        FedsimError: a box is unbounded, or a bound is NaN.
    """
    if bool(bounds.isnan().any()):
        raise FedsimError("the answer holds a bound that is no number.")
    unbounded = int((~bounds.isfinite()).all(1).sum())
    if unbounded:
        raise FedsimError(f"{unbounded:,} of {len(bounds):,} boxes have no bound, so they hold every row.")
