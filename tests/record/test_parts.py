"""Numbers that are not finite survive a file."""

import math

from fedsim.record import Failure, Interval


def test_what_is_no_number_reads_back() -> None:
    for value in (math.inf, -math.inf, 0.1):
        own = Interval(value=value, low=None, high=value, n=3)
        assert Interval.model_validate_json(own.model_dump_json()) == own
    read = Interval.model_validate_json(Interval(value=math.nan, low=None, high=None, n=1).model_dump_json())
    assert math.isnan(read.value)


def test_a_failure_is_an_error_unless_its_cause_is_declared() -> None:
    assert Failure(subject="client 3", reason="it broke").cause == "error"
