"""Findings for programs: a row a figure, by the names of the columns."""

import pytest

from fedsim.record import Finding, Interval
from fedsim.record.finding_rows import FINDING_COLUMNS, finding_rows
from tests.report import records

FOUND = Finding(
    question="membership",
    label="mine",
    method="lira",
    scope={"target": "model"},
    metric="tpr_at_fpr_0.01",
    value=Interval(value=0.3, low=0.2, high=0.4, n=100),
    chance_level=0.01,
    max_value=1.0,
    p_value=0.04,
    extra_metrics={"auc": Interval(value=0.6, low=None, high=None, n=200)},
)
FAILED = Finding(
    question="attributes",
    label="norms",
    role="positive-control",
    metric="attribute_balanced_accuracy",
    failure="no tensor",
)


def test_every_figure_is_a_row_and_chance_belongs_to_that_which_decides() -> None:
    run = records.run([records.arm("quiet", []), records.arm("told", [], findings=(FOUND, FAILED))])
    main, beside, failed = finding_rows(run)
    assert main == {
        "arm": "told", "question": "membership", "label": "mine", "method": "lira", "about": "target model",
        "role": "attack", "metric": "tpr_at_fpr_0.01", "is_main": True, "value": 0.3, "low": 0.2, "high": 0.4, "n": 100,
        "chance": 0.01, "limit": 1.0, "p": 0.04, "state": "recovered", "failure": "", "invalid": "",
    }  # fmt: skip
    assert (beside["metric"], beside["is_main"], beside["value"], beside["low"], beside["n"]) == (
        "auc", False, 0.6, None, 200
    )  # fmt: skip
    assert (beside["chance"], beside["limit"], beside["p"]) == (None, None, None)
    assert (failed["role"], failed["value"], failed["n"]) == ("positive-control", None, None)
    assert (failed["state"], failed["failure"]) == ("failed", "no tensor")


@pytest.mark.parametrize("own", [FOUND, FAILED])
def test_a_row_has_every_column_in_order(own: Finding) -> None:
    for row in finding_rows(records.run([records.arm("told", [], findings=(own,))])):
        assert list(row) == list(FINDING_COLUMNS)


def test_a_finding_that_does_not_count_says_so_beside_its_value() -> None:
    (row, _) = finding_rows(
        records.run([records.arm("told", [], findings=(FOUND.model_copy(update={"invalid": "its control"}),))])
    )
    assert (row["value"], row["state"], row["invalid"], row["failure"]) == (0.3, "invalid", "its control", "")
