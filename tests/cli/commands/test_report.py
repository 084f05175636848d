"""`fedsim report`, as a person uses it: in a process of its own."""

from pathlib import Path

import pytest

from tests.cli.commands.conftest import SWEEP
from tests.cli.typed import fedsim

POLICY = "[policy]\nmax_recovered = 0.4\n"


@pytest.mark.slow
def test_a_policy_that_is_stated_later_is_judged_without_another_run(swept: Path) -> None:
    assert fedsim("report", "s", cwd=swept).stdout == "Report: s/report.html\nSummary: s/report.md\n"
    assert "No thresholds are stated" in (swept / "s" / "report.md").read_text()
    (swept / "judged.toml").write_text(SWEEP + POLICY)
    again = fedsim("sweep", "judged.toml", "--jobs", "1", "--out", "s", cwd=swept)
    assert ", finished in" not in again.stdout
    assert "2 of 2 runs are finished" in again.stdout
    assert fedsim("report", "s", cwd=swept).returncode == 0
    assert "**noise may keep every threshold.**" in (swept / "s" / "report.md").read_text()
    page = (swept / "s" / "report.html").read_text()
    assert "small &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1


def test_the_report_of_a_run_is_written_again(swept: Path) -> None:
    run = next((swept / "s" / "runs").iterdir())
    assert fedsim("report", str(run), cwd=swept).stdout == f"Report: {run}/report.html\n"
