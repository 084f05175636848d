"""`fedsim expect` prints a table that a scenario can hold."""

import tomllib
from pathlib import Path

from fedsim.experiment.expectation import expectation, figures
from fedsim.record.store import read_record
from tests.cli.typed import Say


def test_what_is_printed_is_the_table_of_the_runs_figures(command: Say, swept: Path) -> None:
    run = next(path.parent for path in sorted(swept.glob("s/runs/*/record.json")))
    code, told, _ = command("expect", str(run))
    table = tomllib.loads(told)["expected"]["figures"]
    assert code == 0
    assert {own["metric"] for own in table} >= {"success", "psnr_median", "test_accuracy"}
    assert table == expectation(figures(read_record(run)))["figures"]


def test_a_folder_without_a_record_is_a_mistake_of_the_user(command: Say, tmp_path: Path) -> None:
    code, told, said = command("expect", str(tmp_path))
    assert (code, told) == (2, "")
    assert "record.json" in said
