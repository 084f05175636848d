"""An audit as a figure: a bound from below, over its canaries."""

from fedsim.core import registry
from fedsim.metrics.shown_epsilon import epsilon_shown
from fedsim.privacy.audit import Audit
from fedsim.record import Interval


def test_it_is_open_above_and_rests_on_the_canaries() -> None:
    shown = Audit(canaries=400, guesses=100, correct=80, delta=1e-5, confidence=0.95, epsilon=1.25)
    assert epsilon_shown(shown) == Interval(value=1.25, low=1.25, high=None, n=400)
    own = registry.every_metric()["epsilon_shown"]
    assert (own.over, own.limits) == ("finding", (0.0, None))
