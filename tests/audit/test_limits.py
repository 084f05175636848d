"""Each threshold of a policy is judged by itself."""

from fedsim.audit import verdict
from fedsim.audit.limits import best_membership, client_thresholds, defense_thresholds
from fedsim.judgement.limits import UNDECIDED
from fedsim.judgement.policy import Policy
from fedsim.report.limits import sentence
from tests.audit.audited import audited
from tests.audit.findings import (
    ENOUGH,
    attacked,
    defended,
    exit_code_of,
    exposure,
    failed,
    guarantee,
    membership,
    record,
)


def test_every_threshold_is_judged_alone_and_together_they_are_the_verdict() -> None:
    found = [(own.rule, own.where, own.state) for own in client_thresholds(audited())]
    assert found == [
        ("max_recovered", "batch 1", "kept"),
        ("max_recovered", "batch 2", "undecided"),
        ("max_recovered", "batch 4", "broken"),
        ("max_epsilon", "guarantees", "broken"),
    ]
    assert client_thresholds(audited(Policy())) == []


def test_the_limit_of_a_batch_size_that_failed_is_undecided_beside_one_that_is_kept() -> None:
    found = record(Policy(max_recovered=0.1), client=(attacked(0, ENOUGH), failed("too many")))
    first, second = client_thresholds(found)
    assert (first.state, second.state, second.where) == ("kept", "undecided", "batch 16")
    assert sentence(second) == "Undecided: max_recovered on batch 16 was not judged: too many."
    assert verdict.undecided_sentences(found) == (sentence(second),)
    assert exit_code_of(found) == UNDECIDED
    passing = found.model_copy(update={"policy": Policy(max_recovered=0.1, undecided="pass")})
    assert exit_code_of(passing) == 0


def test_where_nothing_was_scored_each_batch_size_says_so() -> None:
    blind = (attacked(0, scores=()), attacked(0, batch=4, scores=()))
    found = record(Policy(max_recovered=0.1), client=blind)
    assert {threshold.state for threshold in client_thresholds(found)} == {"undecided"}
    assert len(verdict.undecided_sentences(found)) == 1


def test_figures_of_attacks_are_held_to_the_limits_that_the_policy_names() -> None:
    limits = {"exposure": 3.0, "auc": 0.65, "source_told": 0.5}
    client = attacked(0, ENOUGH).model_copy(update={"findings": (membership(0.1), *exposure())})
    judged = {one.where: one for one in client_thresholds(record(Policy(findings=limits), client=(client,)))}
    assert {where: one.state for where, one in judged.items()} == {
        "canary x 1": "kept", "canary x 16": "broken", "lira": "undecided", "findings": "undecided",
    }  # fmt: skip
    assert (
        sentence(judged["canary x 16"]) == "canary x 16, exposure 6.10 (5.60 to 6.60) bits, n = 8, and the limit is 3."
    )
    assert sentence(judged["lira"]) == "Undecided: lira, AUC 0.60 (0.50 to 0.70), n = 200, and the limit is 0.65."
    assert sentence(judged["findings"]) == "Undecided: source_told was not measured."


def test_a_policy_names_the_reason_of_each_limit_that_one_attack_leaves_open() -> None:
    rigged = membership(0.9, low=0.8).model_copy(update={"invalid": "its control 'c' is above chance"})
    found = record(Policy(max_membership_tpr=0.2), findings=(rigged,))
    assert verdict.undecided_sentences(found) == ("Undecided: lira is invalid, since its control 'c' is above chance.",)
    assert best_membership([rigged]) is None


def test_a_defense_is_judged_by_its_own_figures_and_guarantees() -> None:
    policy = Policy(max_recovered=0.1, max_epsilon=4.0, max_accuracy_loss=0.05)
    arm = defended("dp", 0, 0.015).model_copy(update={"guarantees": (guarantee(3.0),)})
    states = [(one.rule, one.where, one.state) for one in defense_thresholds(record(policy), arm)]
    assert states == [
        ("max_recovered", "batch 1", "kept"),
        ("max_accuracy_loss", "accuracy", "kept"),
        ("max_epsilon", "guarantees", "kept"),
    ]
    unattacked = arm.model_copy(update={"findings": (), "cost": None})
    states = [(one.rule, one.state) for one in defense_thresholds(record(policy), unattacked)]
    assert states == [("max_accuracy_loss", "undecided"), ("max_epsilon", "kept")]
