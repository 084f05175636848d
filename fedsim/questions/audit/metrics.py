"""Lower bound on epsilon from an audit with canaries.

A lower bound above the stated epsilon contradicts the guarantee; a lower value proves nothing.
"""

from __future__ import annotations

from fedsim.core.registry import metric
from fedsim.privacy.one_run import AuditResult
from fedsim.record import Interval


@metric(
    "epsilon_lower_bound",
    title="epsilon shown",
    summary="the least epsilon under which so many guesses about canaries are right",
    over="finding",
    limits=(0.0, None),
    related="2410.22235",
)
def epsilon_lower_bound(shown: AuditResult) -> Interval:
    """Return the bound as an interval without upper end; n is the number of canaries in all runs."""
    return Interval(value=shown.epsilon, low=shown.epsilon, high=None, n=shown.plan.canaries * shown.plan.runs)
