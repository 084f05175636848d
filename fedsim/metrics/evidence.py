"""What evidence decides: a limit is judged on the interval, and a search that failed counts only where it converged.

Reports of sweeps and audits both ask here, so that they agree about the same evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.record import Interval, VictimRecord

Light = Literal["kept", "undecided", "broken"]
State = Literal["recovered", "withstood", "undecided"]

_MOST_UPDATES = 1_000_000


def held(found: Interval | None, limit: float, *, is_evidence: bool = True) -> Light:
    """Say whether an upper bound is kept.

    Args:
        found: what was measured, with its interval; None where nothing was.
        limit: the upper bound; what reaches it keeps it.
        is_evidence: whether a low value says something: searches that failed do only where they converged.

    Returns:
        Broken only if the lower end exceeds the limit, kept only if the upper end does not, else undecided.
    """
    if found is None:
        return "undecided"
    if found.low is not None and found.low > limit:
        return "broken"
    if is_evidence and found.high is not None and found.high <= limit:
        return "kept"
    return "undecided"


def updates_to_decide(found: Interval, limit: float, confidence: float) -> int | None:
    """Return how many more updates decide about a limit if the share stays the same; None where no number does."""
    share = found.value
    if share == limit or limit >= 1.0:
        return None

    def decides(n: int) -> bool:
        own = wilson(share * n, n, confidence)
        return (own.low or 0.0) > limit if share > limit else (1.0 if own.high is None else own.high) <= limit

    low, high = found.n, max(1, found.n)
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_UPDATES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return max(0, high - found.n)


def recovered(victim: VictimRecord, rule: Rule) -> int:
    """Return how many examples of an update were recovered."""
    return sum(rule.has_succeeded(item) for item in victim.scores)


def is_evidence(victim: VictimRecord, rule: Rule) -> bool:
    """Say whether what was recovered of an update is what could be: all of it, or a search that converged."""
    if victim.scores and recovered(victim, rule) == len(victim.scores):
        return True
    return victim.failure is None and victim.converged is True


def state_of(victims: Sequence[VictimRecord], rule: Rule) -> State:
    """Say what became of some updates: a recovered example is proof, a failed search only where it is evidence."""
    if any(recovered(victim, rule) for victim in victims):
        return "recovered"
    return "withstood" if victims and all(is_evidence(victim, rule) for victim in victims) else "undecided"
