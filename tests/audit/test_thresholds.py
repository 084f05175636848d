"""Each threshold of a policy is judged by itself."""

from fedsim.audit.thresholds import of_client
from fedsim.record.policy import Policy
from tests.audit.test_exports import audited


def test_every_threshold_is_judged_alone_and_together_they_are_the_verdict() -> None:
    found = [(own.rule, own.where, own.state) for own in of_client(audited())]
    assert found == [
        ("max_recognisable", "batch 1", "kept"),
        ("max_recognisable", "batch 2", "undecided"),
        ("max_recognisable", "batch 4", "broken"),
        ("max_epsilon", "guarantees", "broken"),
    ]
    assert tuple(of_client(audited(Policy()))) == ()
