"""`fedsim expect` writes the figures that `--check` compares with."""

from pathlib import Path

import pytest

from fedsim.experiment.expectation import expectation, figures, measurement, read_expected
from fedsim.record.store import read_record
from tests.cli.typed import Say


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.touch()
    return path


def test_the_written_file_holds_the_runs_figures(command: Say, swept: Path, scenario: Path) -> None:
    run = next(path.parent for path in sorted(swept.glob("s/runs/*/record.json")))
    record = read_record(run)
    code, told, _ = command("expect", str(run), str(scenario))
    expected = read_expected(scenario)
    assert (code, told.split(": ")[1]) == (0, f"{expected.count} expected figures.\n")
    assert {own.metric for own in expected.figures} >= {"success", "psnr_median", "test_accuracy"}
    assert expected == expectation(figures(record), measurement(record))


def test_a_sweep_is_measured_by_its_last_run(command: Say, swept: Path, scenario: Path) -> None:
    records = [read_record(path.parent) for path in swept.glob("s/runs/*/record.json")]
    last = max(records, key=lambda record: record.started)
    assert command("expect", str(swept / "s"), str(scenario))[0] == 0
    measured, at = read_expected(scenario).measured, last.environment
    assert measured is not None
    assert (measured.date, measured.processor) == (last.started.partition("T")[0], at.processor)
    assert measured.commit == (at.git_commit or "unknown")[:12]


def test_a_folder_without_a_record_or_an_unknown_scenario_is_a_mistake_of_the_user(
    command: Say, swept: Path, tmp_path: Path
) -> None:
    code, told, said = command("expect", str(tmp_path))
    assert (code, told) == (2, "")
    assert "record.json" in said
    code, told, said = command("expect", str(swept / "s"), str(tmp_path / "t.toml"))
    assert (code, told) == (2, "")
    assert "no scenario file" in said


def test_a_place_that_cannot_be_written_is_one_sentence(command: Say, swept: Path, scenario: Path) -> None:
    (scenario.parent / "expected").write_text("a file")
    code, told, said = command("expect", str(swept / "s"), str(scenario))
    assert (code, told) == (2, "")
    assert "cannot write" in said
