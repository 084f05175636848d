"""Recovered, withstood or undecided, and the exit code of a policy."""

from typing import Any

import pytest

from fedsim.judgement.limits import exit_code
from fedsim.record import Finding
from fedsim.release import verdict
from fedsim.report import limits
from tests.release.records import RARE, figure, record

WORST = figure(0.7, 0.8, 0.9, p=0.001, label="tight", chance_level=0.2)
CLEAR, NEAR, WIDE = figure(0.8, 0.9, 0.95, p=0.001), figure(0.45, 0.5, 0.58), figure(0.4, 0.5, 0.7)


@pytest.mark.parametrize(
    ("pairs", "state", "sentence"),
    [
        (
            [NEAR, CLEAR, WIDE],
            "recovered",
            (
                "Recovered: members are distinguished from non-members (loss-threshold, AUC 0.90 (0.80 to "
                "0.95), n = 200; the control gives 0.50)."
            ),
        ),
        ([CLEAR, WORST], "recovered", "Recovered: members are distinguished from non-members (tight, AUC 0.80"),
        (
            [NEAR, WIDE],
            "undecided",
            "Undecided: loss-threshold, AUC 0.50 (0.40 to 0.70), n = 200, may be luck or not; n = 800 would halve "
            "the interval.",
        ),
        ([NEAR], "withstood", "Withstood: no attack that was tried is above chance, and every interval is narrow"),
        (
            [(Finding(question="membership", label="a", metric="auc", failure="none"),)],
            "undecided",
            "Undecided: no attack came to a figure",
        ),
    ],
)
def test_the_worst_figure_decides(pairs: list[tuple[Finding, ...]], state: str, sentence: str) -> None:
    answer = verdict.answer(record(*pairs))
    assert answer.state == state
    assert answer.sentence.startswith(sentence)


def test_p_is_adjusted_for_the_number_of_figures() -> None:
    ten = [figure(0.51, 0.58, 0.65, p=0.02) for _ in range(10)]
    assert verdict.answer(record(ten[0])).state == "recovered"
    assert verdict.answer(record(*ten)).state == "undecided"
    # Holm: the smallest of ten is multiplied by ten.
    assert record(*ten).attacks[0].p_value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("rate", "policy", "code", "sentence"),
    [
        ((0.3, 0.4, 0.5), {"max_membership_tpr": 0.1}, 3, "max_membership_tpr = 0.1, but loss-threshold finds 40 %"),
        ((0.0, 0.01, 0.05), {"max_membership_tpr": 0.1}, 0, ""),
        ((0.0, 0.08, 0.2), {"max_membership_tpr": 0.1}, 4, "Undecided: loss-threshold may find up to 20 %"),
        ((0.0, 0.08, 0.2), {"max_membership_tpr": 0.1, "undecided": "pass"}, 0, "Undecided: loss-threshold may"),
        (
            (0.3, 0.4, 0.5),
            {"findings": {RARE: 0.2}},
            3,
            "loss-threshold, TPR at FPR 1% 40.0 (30.0 to 50.0)%, n = 200",
        ),
        ((0.3, 0.4, 0.5), {"findings": {"exposure": 2.0}}, 4, "Undecided: exposure was not measured."),
    ],
)
def test_thresholds_decide_the_exit_code(
    rate: tuple[float, float, float], policy: dict[str, Any], code: int, sentence: str
) -> None:
    made = record(figure(*rate, metric=RARE, chance_level=0.01), **policy)
    assert exit_code(made.policy, (limit.state for limit in verdict.thresholds(made))) == code
    (threshold,) = verdict.thresholds(made)
    assert limits.sentence(threshold).startswith(sentence)
    assert bool(limits.sentence(threshold)) == bool(sentence)


def test_without_a_policy_the_check_only_ran() -> None:
    made = record(CLEAR)
    assert list(verdict.thresholds(made)) == []


def test_too_few_others_leave_the_rate_open() -> None:
    (threshold,) = verdict.thresholds(record(NEAR, others=60, max_membership_tpr=0.1))
    assert limits.sentence(threshold) == (
        "Undecided: max_membership_tpr needs 100 non-members, twice as many with --reference, but has 60."
    )
