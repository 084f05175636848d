"""`fedsim expect` prints a table that a scenario can hold."""

import tomllib
from pathlib import Path

from fedsim.experiment.expectation import expectation, figures, measurement
from fedsim.record.store import read_record
from tests.cli.typed import Say


def test_what_is_printed_is_the_table_of_the_runs_figures(command: Say, swept: Path) -> None:
    run = next(path.parent for path in sorted(swept.glob("s/runs/*/record.json")))
    record = read_record(run)
    code, told, _ = command("expect", str(run))
    table = tomllib.loads(told)["expected"]
    assert code == 0
    assert {own["metric"] for own in table["figures"]} >= {"success", "psnr_median", "test_accuracy"}
    assert table == expectation(figures(record), measurement(record))


def test_a_sweep_is_measured_by_its_last_run(command: Say, swept: Path) -> None:
    records = [read_record(path.parent) for path in swept.glob("s/runs/*/record.json")]
    last = max(records, key=lambda record: record.started)
    table = tomllib.loads(command("expect", str(swept / "s"))[1])["expected"]
    at = last.environment
    assert table["measured"] == {
        "date": last.started.partition("T")[0],
        "commit": (at.git_commit or "unknown")[:12],
        "processor": at.processor,
    }


def test_a_folder_without_a_record_is_a_mistake_of_the_user(command: Say, tmp_path: Path) -> None:
    code, told, said = command("expect", str(tmp_path))
    assert (code, told) == (2, "")
    assert "record.json" in said
