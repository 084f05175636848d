"""An audit as a figure: a bound from below, over its canaries."""

from fedsim.core import registry
from fedsim.privacy.one_run import AuditResult, Plan
from fedsim.questions.audit.metrics import epsilon_lower_bound
from fedsim.record import Interval


def test_it_is_open_above_and_rests_on_the_canaries() -> None:
    shown = AuditResult(
        Plan(400, 100, 3, 0.95, power=0.9, max_epsilon=7.0), right=80, epsilon=1.25, apart=None, gap=1.0
    )
    assert epsilon_lower_bound(shown) == Interval(value=1.25, low=1.25, high=None, n=1200)
    own = registry.every_metric()["epsilon_lower_bound"]
    assert (own.over, own.limits) == ("finding", (0.0, None))
