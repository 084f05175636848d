"""Order of candidates: the state, then broken limits and their excess, then cost and risk."""

import math

import pytest

from fedsim.judgement.limits import Figure, JudgedLimit, LimitState
from fedsim.judgement.ranking import excess, rank
from fedsim.record import Interval

_Candidate = tuple[LimitState, list[JudgedLimit], float, float]


def limit(state: LimitState, value: float | None, bound: float = 0.2) -> JudgedLimit:
    interval = None if value is None else Interval(value=value, low=value, high=value, n=3)
    return JudgedLimit("max_recovered", "", bound, state, Figure("a", interval))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (("kept", [limit("kept", 0.1)], 9.0, 0.9), ("undecided", [limit("undecided", 0.1)], 0.0, 0.0)),
        (("undecided", [limit("undecided", 0.2)], 9.0, 0.9), ("broken", [limit("broken", 0.3)], 0.0, 0.0)),
        (
            ("broken", [limit("broken", 0.9)], 9.0, 0.9),
            ("broken", [limit("broken", 0.3), limit("broken", 0.3)], 0.0, 0.0),
        ),
        (("broken", [limit("broken", 0.3)], 9.0, 0.9), ("broken", [limit("broken", 0.4)], 0.0, 0.0)),
        (("undecided", [limit("undecided", 0.3)], 9.0, 0.9), ("undecided", [limit("undecided", None)], 0.0, 0.0)),
        (("kept", [limit("kept", 0.1)], 1.0, 0.9), ("kept", [limit("kept", 0.15)], 2.0, 0.1)),
        (("kept", [limit("kept", 0.1)], 1.0, 0.1), ("kept", [limit("kept", 0.15)], 1.0, 0.2)),
        (("broken", [limit("broken", 0.3)], 2.0, 0.1), ("broken", [limit("broken", 0.3)], 1.0, 0.2)),
        (("undecided", [], 2.0, 0.1), ("undecided", [], 1.0, 0.2)),
    ],
    ids=["kept", "undecided", "count", "excess", "unmeasured", "cost", "risk", "broken: risk first", "no limit"],
)
def test_the_better_candidate_comes_first(
    better: tuple[LimitState, list[JudgedLimit], float, float],
    worse: tuple[LimitState, list[JudgedLimit], float, float],
) -> None:
    keys = [rank(state, limits, cost=(cost,), risk=risk) for state, limits, cost, risk in (better, worse)]
    assert keys[0] < keys[1]


def test_further_costs_decide_between_equal_first_costs() -> None:
    kept = [limit("kept", 0.1)]
    assert rank("kept", kept, cost=(1.0, 2.0), risk=0.9) < rank("kept", kept, cost=(1.0, 3.0), risk=0.1)


def test_the_excess_is_relative_to_each_limit_and_finite() -> None:
    assert excess([limit("kept", 0.1), limit("kept", 0.2)]) == 0.0
    assert excess([limit("broken", 0.3), limit("broken", 0.8, bound=0.5)]) == pytest.approx(0.5 + 0.6)
    assert excess([limit("broken", 0.03, bound=0.0)]) == pytest.approx(3.0)
    assert excess([limit("broken", math.inf, bound=8.0)]) == excess([limit("undecided", None)]) == 1e6
