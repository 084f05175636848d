"""Each threshold of a policy is judged by itself."""

from fedsim.audit import verdict
from fedsim.audit.thresholds import (
    MEMBERS_FOUND,
    JudgedThreshold,
    best_membership,
    of_client,
    of_defense,
    of_figures,
    of_members,
)
from fedsim.judgement.policy import Policy
from fedsim.record import Finding, Interval
from tests.audit.audited import audited
from tests.audit.findings import ENOUGH, attacked, exposure, failed, guarantee, membership, record


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


def test_figures_of_attacks_are_held_to_the_limits_that_the_policy_names() -> None:
    limits = {"exposure": 3.0, "auc": 0.65, "source_told": 0.5}
    client = attacked(0, ENOUGH).model_copy(update={"findings": (membership(0.1), *exposure())})
    judged = {one.where: one for one in of_client(record(Policy(findings=limits), client=(client,)))}
    assert {where: one.state for where, one in judged.items()} == {
        "canary x 1": "kept", "canary x 16": "broken", "lira": "undecided", "findings": "undecided",
    }  # fmt: skip
    assert (
        judged["canary x 16"].sentence == "canary x 16, exposure 6.10 (5.60 to 6.60) bits, n = 8, and the limit is 3."
    )
    assert judged["lira"].sentence == "Undecided: lira, AUC 0.60 (0.50 to 0.70), n = 200, and the limit is 0.65."
    assert judged["findings"].sentence == "Undecided: source_told was not measured."


def rate(label: str, value: float, low: float, high: float, **own: str) -> Finding:
    found = membership(value, label=label).model_copy(update=own)
    return found.model_copy(update={"more": {MEMBERS_FOUND: Interval(value=value, low=low, high=high, n=100)}})


def members(*findings: Finding) -> JudgedThreshold:
    (threshold,) = of_members(Policy(max_membership_tpr=0.2), findings)
    return threshold


def test_a_limit_on_members_looks_at_every_attack() -> None:
    kept = rate("kept", 0.15, 0.1, 0.2)
    wide = rate("wide", 0.3, 0.0, 0.9)  # the largest estimate, and undecided
    sure = rate("sure", 0.25, 0.21, 0.3)  # a smaller estimate that breaks the limit
    vague = rate("vague", 0.05, 0.0, 0.4)  # the smallest estimate, and undecided
    assert (members(kept).state, members(kept).why) == ("kept", "")
    for some in ((wide, sure, kept, vague), (vague, kept, sure, wide)):
        assert members(*some).state == "broken"
        assert members(*some).why.startswith("max_membership_tpr = 0.2, but sure finds 25 % of the members")
    assert members(kept, vague).state == "undecided"
    assert members(kept, vague).why.startswith("vague may find up to 40 %")
    assert "wide may find up to 90 %" in members(vague, wide).why


def test_an_invalid_attack_neither_keeps_nor_breaks_a_limit() -> None:
    invalid = rate("rigged", 0.9, 0.8, 1.0, invalid="its control 'c' is above chance")
    kept = rate("kept", 0.15, 0.1, 0.2)
    assert members(invalid).sentence == "Undecided: rigged is invalid, since its control 'c' is above chance."
    assert members(kept, invalid).state == "undecided"
    assert best_membership([invalid]) is None
    (figure,) = of_figures(Policy(findings={"auc": 0.9}), [invalid])
    assert (figure.state, figure.where) == ("undecided", "rigged")


def test_a_guarantee_that_trusts_the_server_does_not_keep_a_limit_on_epsilon() -> None:
    policy, trusting = Policy(max_epsilon=4.0), guarantee(1.0).model_copy(update={"holds_against_server": False})
    (alone,) = of_client(record(policy, guarantees=(trusting,)))
    assert (alone.state, alone.why) == (
        "broken", "max_epsilon = 4, but no guarantee holds against the server, which is the attacker."
    )  # fmt: skip
    (beside,) = of_client(record(policy, guarantees=(trusting, guarantee(3.0))))
    assert beside.state == "kept"
    (larger,) = of_client(record(policy, guarantees=(guarantee(3.0), guarantee(5.0), trusting)))
    assert "the weakest guarantee is epsilon 5." in larger.why
    arm = attacked(0, ENOUGH).model_copy(update={"guarantees": (trusting,), "victims": ()})
    assert [one.state for one in of_defense(record(policy), arm)] == ["broken"]
