"""A limit is judged on the interval."""

import pytest

from fedsim.judgement.limits import held, updates_to_decide
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval


@pytest.mark.parametrize(
    ("found", "light"),
    [
        (wilson(0, 73), "kept"),  # 0 to 5.0 %
        (wilson(0, 72), "undecided"),
        (wilson(2, 20), "undecided"),  # 2.8 to 30 %
        (wilson(5, 20), "broken"),  # 11 to 47 %
        (Interval(value=0.9, low=None, high=None, n=1), "undecided"),
        (Interval(value=0.1, low=0.05, high=0.2, n=9), "undecided"),  # what reaches the limit keeps it
        (Interval(value=0.01, low=0.0, high=0.05, n=9), "kept"),
        (None, "undecided"),
    ],
)
def test_only_an_interval_keeps_or_breaks_a_limit(found: Interval | None, light: str) -> None:
    assert held(found, 0.05) == light
    assert held(found, 0.05, is_evidence=False) == ("undecided" if light == "kept" else light)


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 4, 0.05), (0, 2, 0.5), (1, 4, 0.5), (3, 4, 0.5), (4, 4, 0.9)])
def test_the_advised_number_of_updates_is_the_least_that_decides(hits: int, n: int, limit: float) -> None:
    interval = wilson(hits, n)
    more = updates_to_decide(interval, limit, 0.95)
    counts = range(n, n + 400)
    brute = next(m - n for m in counts if held(wilson(interval.value * m, m), limit) != "undecided")
    assert more == brute


def test_no_number_of_updates_decides_about_a_share_on_the_limit() -> None:
    assert updates_to_decide(wilson(1, 4), 0.25, 0.95) is None
    assert updates_to_decide(wilson(0, 4), 0.0, 0.95) is None
