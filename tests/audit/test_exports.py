"""What other programs are told: the same verdicts, in their own formats."""

import json
import xml.etree.ElementTree as ET

from fedsim.audit import exports
from tests.audit.audited import POLICY, audited


def test_junit_fails_what_is_broken_and_what_is_undecided_unless_that_may_pass() -> None:
    suite = ET.fromstring(exports.junit(audited()))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "3", "0")
    assert [len(case) for case in suite] == [0, 1, 1, 1]
    failure = suite[1].find("failure")
    assert "did not converge" in (failure.get("message") or "")
    passing = ET.fromstring(exports.junit(audited(POLICY.model_copy(update={"undecided": "pass"}))))
    assert (passing.get("failures"), passing.get("skipped")) == ("2", "1")
    assert passing[1].find("skipped") is not None


def test_sarif_has_a_result_for_what_is_not_kept() -> None:
    log = json.loads(exports.sarif(audited()))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert [own["level"] for own in run["results"]] == ["warning", "error", "error"]
    assert {own["ruleId"] for own in run["results"]} == {own["id"] for own in run["tool"]["driver"]["rules"]}
    assert all(own["message"]["text"] for own in run["results"])
