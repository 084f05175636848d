"""Sentences about limits say who reached which value, and what the limit is."""

import pytest

from fedsim.judgement.limits import Case, Figure, judge
from fedsim.judgement.policy import Policy
from fedsim.report.limits import PolicyOutcome, policy_outcome, reasons, sentence, share_in_words
from tests.judgement.cases import figure, guarantee, interval

LIMITS = Policy(
    max_recovered=0.2, max_membership_tpr=0.2, max_accuracy_loss=0.2, max_epsilon=4.0, findings={"auc": 0.6}
)


def said(case: Case) -> list[str]:
    found = {"auc": case.findings.get("auc", [figure("kept", 0.5, 0.4, 0.6)])}
    case = Case(case.recognisable, case.accuracy_loss, case.members, found, case.guarantees)
    return [sentence(judged) for judged in judge(LIMITS, case) if sentence(judged)]


@pytest.mark.parametrize(
    ("case", "sentence_"),
    [
        (
            Case(recognisable=[figure("batch 4", 0.5, 0.4, 0.6, word="identified")]),
            "max_recovered = 0.2, but 50 % (40 to 60) of the attacked examples of batch 4 were identified.",
        ),
        (
            Case(recognisable=[figure("batch 4", 0.1, 0.0, 0.3, doubts=("it did not converge",), advice="9 more")]),
            "Undecided: max_recovered on batch 4, since it did not converge; n = 100 leaves 0 to 30 % open and the "
            "limit is 20 %: 9 more.",
        ),
        (
            Case(recognisable=[figure("batch 4", 0.1, 0.0, 0.2, doubts=("it did not converge",))]),
            "Undecided: max_recovered on batch 4, since it did not converge.",
        ),
        (Case(recognisable=[Figure("a", None, missing_reason="nothing was scored")]), "Undecided: nothing was scored."),
        (
            Case(members=[figure("lira", 0.5, 0.4, 0.6)]),
            "max_membership_tpr = 0.2, but lira finds 50 % of the members at 1 % false positives.",
        ),
        (
            Case(members=[figure("lira", 0.1, 0.0, None)]),
            "Undecided: lira may find up to 100 % of the members, and the limit is 20 %.",
        ),
        (
            Case(members=[figure("lira", 0.1, 0.0, 0.1, invalid="its control is above chance")]),
            "Undecided: lira is invalid, since its control is above chance.",
        ),
        (
            Case(accuracy_loss=figure("accuracy", 0.5, 0.4, 0.6)),
            "max_accuracy_loss = 0.2, but it costs 50.0 points of test accuracy.",
        ),
        (
            Case(accuracy_loss=figure("accuracy", 0.1, 0.0, 0.3)),
            "Undecided: it may cost up to 30.0 points of test accuracy, and the limit is 20 points.",
        ),
        (
            Case(accuracy_loss=figure("accuracy", 0.1, None, None)),
            "Undecided: its cost has no interval.",
        ),
        (Case(guarantees=[guarantee(5.0)]), "max_epsilon = 4, but the weakest guarantee is epsilon 5."),
        (Case(guarantees=[]), "max_epsilon = 4, but nothing in the client states an epsilon."),
        (
            Case(guarantees=[guarantee(1.0, holds_against_server=False)]),
            "max_epsilon = 4, but no guarantee holds against the server, which is the attacker.",
        ),
        (
            Case(findings={"auc": [figure("lira", 0.7, 0.65, 0.8)]}),
            "lira, AUC 0.70 (0.65 to 0.80), n = 100, and the limit is 0.6.",
        ),
        (Case(findings={"auc": []}), "Undecided: auc was not measured."),
        (
            Case(findings={"auc": [figure("lira", 0.7, 0.65, 0.8, invalid="its control is above chance")]}),
            "Undecided: lira is invalid, since its control is above chance.",
        ),
    ],
)
def test_each_limit_that_is_not_kept_has_its_sentence(case: Case, sentence_: str) -> None:
    assert said(case) == [sentence_]


def test_a_kept_limit_has_no_sentence() -> None:
    kept = figure("any", 0.1, 0.0, 0.2)
    assert said(Case([kept], kept, [kept], guarantees=[guarantee(4.0)])) == []


def test_reasons_are_given_for_undecided_limits_alone() -> None:
    doubted = figure("batch 1", 0.0, 0.0, 0.3, doubts=("one", "two"))
    (open_,) = judge(Policy(max_recovered=0.2), Case(recognisable=[doubted]))
    assert reasons(open_) == ("one", "two", "n = 100 leaves 0 to 30 % open and the limit is 20 %")
    for low, high in ((0.0, 0.1), (0.3, 0.4)):
        (decided,) = judge(Policy(max_recovered=0.2), Case(recognisable=[figure("batch 1", 0.2, low, high)]))
        assert reasons(decided) == ()


def test_a_share_is_told_in_percent() -> None:
    assert share_in_words(interval(0.5, 0.4, 0.6)) == "50 % (40 to 60)"
    assert share_in_words(interval(0.5, None, None)) == "50 %"
    assert share_in_words(None) == "an unknown share"


def test_limits_open_for_one_reason_share_a_sentence_and_the_code_is_that_of_the_worst() -> None:
    unscored = [Figure(name, None, missing_reason="nothing was scored") for name in ("a", "b")]
    told = "The policy is undecided: nothing was scored."
    limits = judge(Policy(max_recovered=0.2), Case(recognisable=unscored))
    assert policy_outcome(Policy(max_recovered=0.2), limits) == PolicyOutcome((told,), 4)
    assert policy_outcome(Policy(max_recovered=0.2, undecided="pass"), limits) == PolicyOutcome((told,), 0)
    worse = judge(
        Policy(max_recovered=0.2), Case(recognisable=[*unscored, figure("c", 0.5, 0.4, 0.6, word="identified")])
    )
    first, second = policy_outcome(Policy(max_recovered=0.2, undecided="pass"), worse).sentences
    assert (first, second.partition(":")[0]) == (told, "The policy is broken")
    assert policy_outcome(Policy(max_recovered=0.2), worse).exit_code == 3
    kept = judge(Policy(max_recovered=0.2), Case(recognisable=[figure("c", 0.01, 0.0, 0.1)]))
    assert policy_outcome(Policy(max_recovered=0.2), kept) == PolicyOutcome((), 0)
