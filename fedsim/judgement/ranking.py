"""Ranking of candidates by a policy: settings of a sweep, defenses of an audit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fedsim.judgement.limits import SEVERITY, JudgedLimit, LimitState

_MOST = 1e6  # excess of a missing guarantee or figure
_SMALLEST = 0.01  # limits below do not enlarge the relative excess further

Rank = tuple[int, int, float, tuple[float, ...]]


def rank(state: LimitState, judged: Sequence[JudgedLimit], *, cost: Sequence[float], risk: float) -> Rank:
    """Return a candidate's sort key, the best candidate first.

    Kept comes before undecided before broken, then fewer broken limits, then a smaller `excess`. Equal candidates are
    sorted by their cost and then their risk; by risk first if a limit is broken or no limit is stated.

    Args:
        state: state of the candidate; may be worse than that of the limits.
        judged: the candidate's limits.
        cost: costs of the candidate, the most important first.
        risk: recovered share.
    """
    broken = sum(limit.state == "broken" for limit in judged)
    order = (risk, *cost) if broken or not judged else (*cost, risk)
    return SEVERITY.index(state), broken, excess(judged), order


def excess(judged: Iterable[JudgedLimit]) -> float:
    """Return the amounts by which figures exceed their limits, relative to the limits, summed."""
    return sum(_excess(limit) for limit in judged)


def _excess(judged: JudgedLimit) -> float:
    value = math.inf if judged.figure.value is None else judged.figure.value.value
    return min(_MOST, max(0.0, value - judged.limit) / max(abs(judged.limit), _SMALLEST))
