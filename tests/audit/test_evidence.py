"""When a failed search is evidence."""

import pytest

from fedsim.audit import evidence
from tests.audit.findings import LEARNED, attacked


def test_a_client_has_learned_when_it_beats_the_most_frequent_class_beyond_chance() -> None:
    assert evidence.has_learned(LEARNED)
    assert not evidence.has_learned(LEARNED.model_copy(update={"accuracy": LEARNED.majority_accuracy}))
    assert not evidence.has_learned(LEARNED.model_copy(update={"test_examples": 5, "accuracy": 0.4}))


def test_less_is_recovered_only_where_the_intervals_are_apart() -> None:
    assert evidence.is_below(attacked(0, 40).recovered_share, attacked(40, 40).recovered_share)
    assert not evidence.is_below(attacked(1, 4).recovered_share, attacked(3, 4).recovered_share)
    assert not evidence.is_below(None, attacked(3, 4).recovered_share)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(240.0, "31 more minutes"), (4.0, "1 more minute"), (8.0, "2 more minutes")]
)
def test_how_much_more_would_decide_is_stated_in_updates_and_in_minutes(seconds: float, minutes: str) -> None:
    """4 updates without a recovered one need 31 more to keep 10 %; each took a quarter of the seconds."""
    found = attacked(0, 4, seconds=seconds / 4)
    assert evidence.needed_updates(found, 0.1, 0.95) == (
        f"about 31 more updates and {minutes} would decide, if the share stays the same (--updates 35)"
    )
    assert evidence.needed_updates(attacked(1, 4), 0.25, 0.95) == ""  # no number of updates decides about its own share
