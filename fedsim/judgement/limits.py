"""Limits of a policy: the interval of a figure decides whether its limit is kept, undecided or broken."""

from __future__ import annotations

from typing import Literal

from fedsim.metrics.statistics import wilson
from fedsim.record import Interval

LimitState = Literal["kept", "undecided", "broken"]

_MOST_UPDATES = 1_000_000


def held(interval: Interval | None, limit: float, *, is_evidence: bool = True) -> LimitState:
    """Return whether an upper limit is kept.

    Args:
        interval: measured value with interval; None without a measurement.
        limit: the upper limit, inclusive.
        is_evidence: whether a low value is evidence: failed searches are only if they converged.

    Returns:
        Broken if the lower bound exceeds the limit, kept if the upper bound does not, else undecided.
    """
    if interval is None:
        return "undecided"
    if interval.low is not None and interval.low > limit:
        return "broken"
    if is_evidence and interval.high is not None and interval.high <= limit:
        return "kept"
    return "undecided"


def updates_to_decide(interval: Interval, limit: float, confidence: float) -> int | None:
    """Return how many more updates decide about a limit if the share stays equal; None if no number does."""
    share = interval.value
    if share == limit or limit >= 1.0:
        return None

    def decides(n: int) -> bool:
        at_n = wilson(share * n, n, confidence)
        return (at_n.low or 0.0) > limit if share > limit else (1.0 if at_n.high is None else at_n.high) <= limit

    low, high = interval.n, max(1, interval.n)
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_UPDATES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(0, high - interval.n)
