"""Limits of an attack's answer, checked where the truth is.

The scorer matches guesses to examples. An answer with more guesses than examples would let the truth choose among them,
and so would a box that holds every row. An attack in its own process may return anything, so the checks of an attack's
base class do not suffice.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedsim.core.errors import FedsimError


def check_count(count: int, most: int, what: str) -> None:
    """Refuse an answer with more parts than there is to guess.

    Args:
        count: parts of the answer.
        most: the limit, that of the truth.
        what: the parts, in the plural.

    Raises:
        FedsimError: the count is above the limit.
    """
    if count > most:
        raise FedsimError(f"the answer has {count:,} {what}, expected at most {most:,}.")


def check_shape(answer: Tensor, shape: Sequence[int]) -> Tensor:
    """Return an answer of this shape.

    Raises:
        FedsimError: the answer has another shape.
    """
    if tuple(answer.shape) != tuple(shape):
        raise FedsimError(f"the answer has shape {tuple(answer.shape)}, expected {tuple(shape)}.")
    return answer


def check_bounds(bounds: Tensor) -> None:
    """Refuse boxes that have no bound in any column.

    Args:
        bounds: least values and upper ends of each box, shape (N, 2 D).

    Raises:
        FedsimError: a box is unbounded, or a bound is no number.
    """
    if bool(bounds.isnan().any()):
        raise FedsimError("the answer holds a bound that is no number.")
    unbounded = int((~bounds.isfinite()).all(1).sum())
    if unbounded:
        raise FedsimError(f"{unbounded:,} of {len(bounds):,} boxes have no bound, so they hold every row.")
