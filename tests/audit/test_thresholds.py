"""Each threshold of a policy is judged by itself."""

from fedsim.audit import verdict
from fedsim.audit.thresholds import of_client
from fedsim.record.policy import Policy
from tests.audit.audited import audited
from tests.audit.findings import ENOUGH, attacked, failed, record


def test_every_threshold_is_judged_alone_and_together_they_are_the_verdict() -> None:
    found = [(own.rule, own.where, own.state) for own in of_client(audited())]
    assert found == [
        ("max_recognisable", "batch 1", "kept"),
        ("max_recognisable", "batch 2", "undecided"),
        ("max_recognisable", "batch 4", "broken"),
        ("max_epsilon", "guarantees", "broken"),
    ]
    assert tuple(of_client(audited(Policy()))) == ()


def test_a_batch_size_that_failed_is_open_by_itself_and_does_not_fail_the_audit() -> None:
    found = record(Policy(max_recognisable=0.1), client=(attacked(0, ENOUGH), failed("too many")))
    first, second = of_client(found)
    assert (first.state, second.state, second.where) == ("kept", "undecided", "batch 16")
    assert second.sentence == "Undecided: max_recognisable on batch 16 was not judged: too many."
    assert verdict.unjudged(found) == ()
    assert verdict.exit_code(found) == 0


def test_where_nothing_was_scored_each_batch_size_says_so() -> None:
    blind = (attacked(0, scores=()), attacked(0, batch=4, scores=()))
    found = record(Policy(max_recognisable=0.1), client=blind)
    assert {threshold.state for threshold in of_client(found)} == {"undecided"}
    assert len(verdict.unjudged(found)) == 1
