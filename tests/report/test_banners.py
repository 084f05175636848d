"""The warnings above a report: what makes its figures count for less."""

import pytest

from fedsim.record import Failure, Finding
from tests.report.reading import banners


def test_a_control_that_fails_raises_the_alarm(report, records):
    informed = ("labels", "masks")
    attacks = [records.attack("ig", records.missed()), records.attack("wiig", records.missed(), knows=informed)]
    page = report(records.run([records.arm("a", attacks)]))
    assert banners(page) == ["banner alarm"]
    assert "This report shows nothing about privacy" in page.text
    assert "wiig in a, 0 of 4 images" in page.text
    assert "which is no guarantee. Granted the masks, attack wiig recovers 0 of 4. That control did not" in page.text


def test_an_unprotected_arm_is_a_control(report, records):
    arm = records.arm("plain", [records.attack("ig", records.missed())], dropout=())
    assert banners(report(records.run([arm]))) == ["banner alarm"]
    defended = records.scenario(defenses=[{"name": "noise", "std": 0.1}])
    assert banners(report(records.run([arm], plan=defended))) == ["banner caution"]


def test_a_success_elsewhere_softens_a_failed_control(report, records):
    plain = records.arm("plain", [records.attack("sparse", records.missed())], dropout=())
    dropped = records.arm("dropped", [records.attack("sparse", records.recovered())])
    page = report(records.run([plain, dropped]))
    assert banners(page) == ["banner caution"]
    assert "No control succeeded" in page.text


def test_a_run_without_control_says_so(report, records):
    page = report(records.run([records.arm("a", [records.attack("ig", records.missed())])]))
    assert banners(page) == ["banner caution"]
    assert "No control was run" in page.text


def test_an_arms_values_may_name_a_list_entry(report, records):
    scenario = records.scenario(
        model={"name": "mlp", "dropout": 0}, defenses=[{"name": "noise"}], arms={"defenses.0.std": [0, 1]}
    )
    arm = records.arm("std = 1", [records.attack("ig", records.missed())], values={"defenses.0.std": 1}, dropout=())
    assert banners(report(records.run([arm], plan=scenario))) == ["banner caution"]


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_unfinished_run_says_so(report, records, status):
    record = records.run(
        records.typical().arms[:1],
        status=status,
        ended=None,
        failures=(Failure(subject="arm 2", reason="out of memory"),),
    )
    page = report(record)
    assert banners(page) == ["banner caution"]
    assert f"This run {'was interrupted' if status == 'interrupted' else 'failed'}" in page.text
    assert "out of memory" in page.text


def test_the_alarm_of_a_finding_stands_above_everything(report, records):
    alarm = "An audit contradicts a guarantee. s states epsilon 1. No epsilon of that arm is valid."
    own = Finding(question="audit", label="s", metric="epsilon_lower_bound", alarm=alarm)
    arms = [records.arm("a", [records.attack("ig", records.recovered())], dropout=(), findings=(own,))]
    page = report(records.run(arms))
    assert banners(page) == ["banner alarm"]
    assert "An audit contradicts a guarantee a: s states epsilon 1. No epsilon of that arm is valid." in page.text
