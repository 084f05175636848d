"""When a failed search is evidence."""

from fedsim.audit import evidence
from tests.audit.findings import LEARNED, inspection


def test_a_client_has_learned_when_it_beats_the_most_frequent_class_beyond_chance() -> None:
    assert evidence.has_learned(LEARNED)
    assert not evidence.has_learned(LEARNED.model_copy(update={"accuracy": LEARNED.guessing}))
    assert not evidence.has_learned(LEARNED.model_copy(update={"test_examples": 5, "accuracy": 0.4}))


def test_less_is_recovered_only_where_the_intervals_are_apart() -> None:
    assert evidence.is_below(inspection(0, 40), inspection(40, 40))
    assert not evidence.is_below(inspection(1, 4), inspection(3, 4))
    assert not evidence.is_below(None, inspection(3, 4))
