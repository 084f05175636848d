"""Numbers for people, with and without their intervals."""

import pytest

from fedsim.record import ClientCost, Interval
from fedsim.report.tables.figures import NOTHING, cost, duration, estimate, with_noun


def test_an_estimate_has_its_unit_and_its_interval_where_there_is_one() -> None:
    own = estimate(Interval(value=0.256, low=0.2, high=0.3, n=9), 100, 0, "%")
    assert own.text == "26%"
    assert "20" in own.interval
    assert "30" in own.interval
    assert estimate(Interval(value=0.256, low=None, high=None, n=1), 1, 2).interval == ""
    assert estimate(None, 1, 2).text == NOTHING


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (100, "1.7 min"), (3600, "60.0 min")],
)
def test_long_spans_are_minutes(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_what_a_round_took_is_told_where_it_was_recorded() -> None:
    assert cost(None) == ""
    whole = cost(ClientCost(processor_seconds=0.123, peak_memory=300 << 20, n=3))
    assert whole == "a client's round took 0.12 s of processor time and at most 300 MiB of memory"
    assert cost(ClientCost(processor_seconds=2.0, peak_memory=None, n=3)).endswith("2 s of processor time")


@pytest.mark.parametrize(("number", "told"), [(0, "0 seeds"), (1, "1 seed"), (1500, "1,500 seeds")])
def test_nouns_are_plural_but_for_one(number: int, told: str) -> None:
    assert with_noun(number, "seed") == told
