"""What an audit with canaries shows about a stated epsilon.

An audit bounds epsilon from below: more than is stated contradicts the guarantee, and less of it proves nothing.
"""

from __future__ import annotations

from fedsim.core.registry import metric
from fedsim.privacy.one_run import AuditResult
from fedsim.record import Interval


@metric(
    "epsilon_shown",
    title="epsilon shown",
    summary="the least epsilon under which so many guesses about canaries are right",
    over="finding",
    limits=(0.0, None),
    related="2410.22235",
)
def epsilon_shown(shown: AuditResult) -> Interval:
    """Return the bound as an interval that is open above; n is the number of canaries in all runs."""
    return Interval(value=shown.epsilon, low=shown.epsilon, high=None, n=shown.plan.canaries * shown.plan.runs)
