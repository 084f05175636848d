"""When a failed search is evidence."""

import math

import pytest

from fedsim.audit import evidence
from fedsim.metrics.statistics import wilson
from fedsim.record import VictimRecord
from tests.audit.findings import LEARNED, inspection


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.1, 0.5])
def test_the_advised_number_of_updates_is_the_least_that_keeps_the_limit(limit: float) -> None:
    needed = evidence.updates_for(limit, 0.95)
    assert needed is not None
    assert (wilson(0, needed).high or 1.0) <= limit < (wilson(0, needed - 1).high or 1.0)
    assert evidence.updates_for(0.0, 0.95) is None


@pytest.mark.parametrize(
    ("history", "converged"),
    [
        ((), False),
        (((1, 1.0), (80, 0.5), (100, 0.4)), False),
        (((1, 1.0), (80, 0.5), (100, 0.496)), True),
        (((1, 1.0), (100, math.nan)), False),
        (((100, 1.0),), False),
    ],
)
def test_a_search_has_converged_when_its_last_fifth_gains_less_than_a_hundredth(
    history: tuple[tuple[int, float], ...], converged: bool
) -> None:
    victim = VictimRecord(round=1, client=0, stopped="iterations used up", history=history)
    assert evidence.has_converged(victim) is converged
    assert evidence.has_converged(victim.model_copy(update={"stopped": "no improvement"}))


def test_a_client_has_learned_when_it_beats_the_most_frequent_class_beyond_chance() -> None:
    assert evidence.has_learned(LEARNED)
    assert not evidence.has_learned(LEARNED.model_copy(update={"accuracy": LEARNED.guessing}))
    assert not evidence.has_learned(LEARNED.model_copy(update={"test_examples": 5, "accuracy": 0.4}))


def test_less_is_recovered_only_where_the_intervals_are_apart() -> None:
    assert evidence.is_below(inspection(0, 40), inspection(40, 40))
    assert not evidence.is_below(inspection(1, 4), inspection(3, 4))
    assert not evidence.is_below(None, inspection(3, 4))


def test_everything_recovered_needs_no_evidence_and_short_searches_are_doubted() -> None:
    assert evidence.doubts(inspection(4)) == ()
    assert evidence.doubts(inspection(3)) == ()
    hurried = inspection(3, iterations=evidence.LEAST_ITERATIONS - 1)
    assert evidence.doubts(hurried) == ("the searches had 199 iterations, fewer than 200",)
    ended = inspection(3).model_copy(update={"is_short": True})
    assert evidence.doubts(ended) == ("the clock ended a search",)
