"""`fedsim sweep`, `report` and `compare`, as a person uses them: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SWEEP = """
title = "small <script>alert(1)</script>"
[data]
name = "digits"
[model]
name = "mlp"
width = 8
depth = 1
[federation]
clients = 4
[threat]
victims = 4
[[attacks]]
name = "closed-form-linear"
[sweep]
seeds = [1]
[sweep.grid.defense.none]
[sweep.grid.defense.noise]
defenses = [{ name = "gradient-noise", scale = 10.0 }]
"""
POLICY = "[policy]\nmax_recognisable = 0.4\n"


def fedsim(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "fedsim.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands")
    (path / "s.toml").write_text(SWEEP)
    done = fedsim("sweep", "s.toml", "--jobs", "1", "--out", "s", cwd=path)
    assert done.returncode == 0, done.stderr
    return path


def test_a_policy_that_is_stated_later_is_judged_without_another_run(folder: Path) -> None:
    assert fedsim("report", "s", cwd=folder).stdout == "Report: s/report.html\nSummary: s/report.md\n"
    assert "No thresholds are stated" in (folder / "s" / "report.md").read_text()
    (folder / "judged.toml").write_text(SWEEP + POLICY)
    again = fedsim("sweep", "judged.toml", "--jobs", "1", "--out", "s", cwd=folder)
    assert ", finished in" not in again.stdout
    assert "2 of 2 runs are finished" in again.stdout
    assert fedsim("report", "s", cwd=folder).returncode == 0
    assert "**noise may keep every threshold.**" in (folder / "s" / "report.md").read_text()
    page = (folder / "s" / "report.html").read_text()
    assert "small &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1


def test_the_report_of_a_run_is_written_again(folder: Path) -> None:
    run = next((folder / "s" / "runs").iterdir())
    assert fedsim("report", str(run), cwd=folder).stdout == f"Report: {run}/report.html\n"


def test_a_sweep_is_compared_with_itself(folder: Path) -> None:
    done = fedsim("compare", "s", "s", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no difference shown") == 4


def test_a_folder_of_neither_is_one_sentence(folder: Path) -> None:
    refused = fedsim("compare", "s", "nowhere", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.strip() == "nowhere holds no record.json: not a run folder."
