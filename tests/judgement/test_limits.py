"""The rules of a policy, for runs, sweeps, audits and release checks."""

from itertools import permutations
from typing import Any

import pytest

from fedsim.judgement.limits import (
    MEMBERS_FOUND,
    Case,
    Figure,
    LimitState,
    exit_code,
    figures_of,
    judge,
    judge_limit,
    updates_to_decide,
    worst,
)
from fedsim.judgement.policy import Policy
from fedsim.metrics.statistics import wilson
from fedsim.record import GuaranteeRecord, Interval
from tests.judgement.cases import figure, finding, guarantee


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
    assert judge_limit(found, 0.05) == light
    assert judge_limit(found, 0.05, is_evidence=False) == ("undecided" if light == "kept" else light)


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 4, 0.05), (0, 2, 0.5), (1, 4, 0.5), (3, 4, 0.5), (4, 4, 0.9)])
def test_the_advised_number_of_updates_is_the_least_that_decides(hits: int, n: int, limit: float) -> None:
    interval = wilson(hits, n)
    more = updates_to_decide(interval, limit, 0.95)
    counts = range(n, n + 400)
    brute = next(m - n for m in counts if judge_limit(wilson(interval.value * m, m), limit) != "undecided")
    assert more == brute


def test_no_number_of_updates_decides_about_a_share_on_the_limit() -> None:
    assert updates_to_decide(wilson(1, 4), 0.25, 0.95) is None
    assert updates_to_decide(wilson(0, 4), 0.0, 0.95) is None


def states(policy: dict[str, Any], case: Case) -> list[LimitState]:
    return [judged.state for judged in judge(Policy.model_validate(policy), case)]


LEFT, MEMBERS, LOSS = "max_recovered", "max_membership_tpr", "max_accuracy_loss"
SHARES = {
    LEFT: lambda found: Case(recognisable=[found]),
    MEMBERS: lambda found: Case(members=[found]),
    LOSS: lambda found: Case(accuracy_loss=found),
    "auc": lambda found: Case(findings={"auc": [found]}),
}


def limited(rule: str, limit: float, **more: Any) -> dict[str, Any]:
    return {"findings": {rule: limit}, **more} if rule == "auc" else {rule: limit, **more}


@pytest.mark.parametrize("rule", SHARES)
@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0.05, 0.2, "kept"),  # what reaches the limit keeps it
        (0.05, 0.201, "undecided"),
        (0.2, 0.4, "undecided"),
        (0.201, 0.4, "broken"),
        (None, None, "undecided"),
    ],
)
def test_intervals_decide_on_both_sides_of_each_limit(
    rule: str, low: float | None, high: float | None, state: str
) -> None:
    for value in (0.1, 0.3):  # an estimate decides nothing
        assert states(limited(rule, 0.2), SHARES[rule](figure("a", value, low, high))) == [state]


@pytest.mark.parametrize("rule", SHARES)
def test_a_failed_search_is_undecided_and_a_success_needs_no_converged_search(rule: str) -> None:
    doubts = ("4 of 4 searches did not converge",)
    assert states(limited(rule, 0.2), SHARES[rule](figure("a", 0.0, 0.0, 0.1, doubts=doubts))) == ["undecided"]
    assert states(limited(rule, 0.2), SHARES[rule](figure("a", 0.5, 0.4, 0.6, doubts=doubts))) == ["broken"]


@pytest.mark.parametrize("rule", SHARES)
def test_an_invalid_figure_is_undecided_whatever_its_value(rule: str) -> None:
    for low, high in ((0.0, 0.1), (0.4, 0.6)):
        assert states(limited(rule, 0.2), SHARES[rule](figure("a", 0.3, low, high, invalid="why"))) == ["undecided"]


@pytest.mark.parametrize("rule", SHARES)
def test_missing_evidence_is_undecided(rule: str) -> None:
    assert states(limited(rule, 0.2), SHARES[rule](Figure("a", None))) == ["undecided"]


def test_a_limit_that_applies_and_has_no_figure_is_undecided() -> None:
    policy = {LEFT: 0.2, MEMBERS: 0.2, "findings": {"auc": 0.6, "exposure": 2.0}}
    judged = judge(Policy.model_validate(policy), Case(recognisable=(), members=()))
    assert [(one.rule, one.where, one.state) for one in judged] == [
        (LEFT, "", "undecided"),
        (MEMBERS, "membership", "undecided"),
        ("auc", "findings", "undecided"),
        ("exposure", "findings", "undecided"),
    ]


def test_a_limit_that_does_not_apply_or_is_not_stated_is_not_judged() -> None:
    everything = {LEFT: 0.2, MEMBERS: 0.2, LOSS: 0.2, "max_epsilon": 2.0}
    assert states(everything, Case()) == []
    found = figure("a", 0.9, 0.8, 1.0)
    assert states({}, Case([found], found, [found], {"auc": [found]}, [guarantee(9.0)])) == []


def test_limits_are_judged_one_by_one_in_one_order() -> None:
    kept, open_, broken = figure("kept", 0.0, 0.0, 0.1), figure("open", 0.2, 0.1, 0.5), figure("broken", 0.6, 0.5, 0.7)
    policy = {LEFT: 0.2, LOSS: 0.2, MEMBERS: 0.2, "max_epsilon": 2.0, "findings": {"auc": 0.2}}
    case = Case([kept, broken, open_], open_, [kept], {"auc": [broken, kept]}, [guarantee(1.0)])
    assert [(one.rule, one.where, one.state) for one in judge(Policy.model_validate(policy), case)] == [
        (LEFT, "kept", "kept"), (LEFT, "broken", "broken"), (LEFT, "open", "undecided"),
        (LOSS, "accuracy", "undecided"), (MEMBERS, "membership", "kept"),
        ("auc", "broken", "broken"), ("auc", "kept", "kept"),
        ("max_epsilon", "guarantees", "kept"),
    ]  # fmt: skip


def members(*figures: Figure) -> tuple[LimitState, str]:
    (judged,) = judge(Policy(max_membership_tpr=0.2), Case(members=figures))
    return judged.state, judged.figure.label


def test_a_limit_on_members_looks_at_every_attack() -> None:
    kept = figure("kept", 0.15, 0.1, 0.2)
    wide = figure("wide", 0.3, 0.0, 0.9)  # the largest estimate, and undecided
    sure = figure("sure", 0.25, 0.21, 0.3)  # a smaller estimate that breaks the limit
    vague = figure("vague", 0.05, 0.0, 0.4)  # the smallest estimate, and undecided
    for order in permutations((wide, sure, kept, vague)):
        assert members(*order) == ("broken", "sure")
    for order in permutations((kept, vague, wide)):
        assert members(*order) == ("undecided", "wide")
    assert members(vague, kept) == ("undecided", "vague")
    assert members(kept) == ("kept", "kept")


def test_an_invalid_membership_attack_leaves_the_limit_undecided_unless_another_breaks_it() -> None:
    invalid, kept = figure("invalid", 0.9, 0.8, 1.0, invalid="why"), figure("kept", 0.1, 0.05, 0.2)
    for order in permutations((invalid, kept)):
        assert members(*order) == ("undecided", "invalid")
    assert members(invalid, figure("sure", 0.25, 0.21, 0.3)) == ("broken", "sure")
    # Of equal states the valid attack is named.
    assert members(invalid, figure("wide", 0.1, 0.0, 0.3)) == ("undecided", "wide")


@pytest.mark.parametrize(
    ("stated", "state"),
    [
        ([guarantee(2.0)], "kept"),  # what reaches the limit keeps it
        ([guarantee(2.001)], "broken"),
        ([guarantee(1.0), guarantee(3.0)], "broken"),  # the weakest counts
        ([guarantee(1.0, holds_against_server=False)], "broken"),
        ([guarantee(9.0, holds_against_server=False), guarantee(1.0)], "kept"),
        ([guarantee(1.0, holds_against_server=False), guarantee(3.0)], "broken"),
        ([], "broken"),
    ],
)
def test_a_guarantee_that_does_not_hold_against_the_server_never_keeps_a_limit_on_epsilon(
    stated: list[GuaranteeRecord], state: str
) -> None:
    assert states({"max_epsilon": 2.0}, Case(guarantees=stated)) == [state]
    assert states({"max_epsilon": 2.0}, Case(guarantees=list(reversed(stated)))) == [state]


@pytest.mark.parametrize(
    ("given", "state", "code", "passing"),
    [
        ([], "kept", 0, 0),
        (["kept", "kept"], "kept", 0, 0),
        (["kept", "undecided"], "undecided", 4, 0),
        (["undecided", "broken", "kept"], "broken", 3, 3),
        (["broken"], "broken", 3, 3),
    ],
)
def test_the_worst_limit_and_the_policy_decide_the_exit_code(
    given: list[LimitState], state: str, code: int, passing: int
) -> None:
    assert worst(given) == state
    assert exit_code(Policy(), given) == exit_code(Policy(undecided="fail"), iter(given)) == code
    assert exit_code(Policy(undecided="pass"), given) == passing


def test_figures_are_those_of_attacks_invalid_ones_included() -> None:
    some = [
        finding("one", 0.3, 0.2, 0.4),
        finding("control", 0.9, 0.8, 1.0, role="negative-control"),
        finding("failed", 0.0, 0.0, 0.0, extra_metrics={}, failure="it broke"),
        finding("rigged", 0.7, 0.6, 0.8, invalid="its control is above chance"),
    ]
    assert figures_of(some, MEMBERS_FOUND) == [
        figure("one", 0.3, 0.2, 0.4),
        figure("rigged", 0.7, 0.6, 0.8, invalid="its control is above chance"),
    ]
    assert figures_of(some, "exposure") == []
