"""One way to run a scenario into a folder: lock, earlier run, salt and page."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment.run_into import UNREADABLE, ExistingRunPolicy, run_into
from fedsim.record import RunRecord
from fedsim.record.atomic_files import LOCK
from fedsim.record.store import RECORD, RunFolder, read_record, read_salt
from tests.experiment.running import SHORT, Build, Silent


def run(scenario: Build, path: Path, existing: ExistingRunPolicy = "refuse", **more: Any) -> RunRecord:
    return run_into(scenario(**SHORT, **more), path, command="test", existing=existing)


def interrupted(scenario: Build, path: Path) -> RunRecord:
    """The record of a run that ended after its first arm, long ago."""
    with pytest.raises(KeyboardInterrupt):
        run_into(scenario(**SHORT), path, command="test", watcher=Silent(stop_at=3))
    record = read_record(path).model_copy(update={"started": "2020-01-01T00:00:00+00:00"})
    assert [arm.complete for arm in record.arms][:1] == [True]
    RunFolder(path).write_record(record)
    return record


def test_the_folder_is_locked_until_the_page_is_written(scenario: Build, tmp_path: Path) -> None:
    moments = list[str]()

    def look(moment: str) -> None:
        assert (tmp_path / "run" / LOCK).exists()
        with pytest.raises(FedsimError, match="another fedsim is at work"), RunFolder(tmp_path / "run").lock():
            pass
        moments.append(f"{moment}, {(tmp_path / 'run' / RECORD).exists()}")

    record = run_into(
        scenario(**SHORT),
        tmp_path / "run",
        command="a command",
        on_open=lambda earlier: look(f"open {earlier}"),
        write_page=lambda path: look(f"page of {path.name}"),
    )
    assert moments == ["open None, False", "page of run, True"]
    assert not (tmp_path / "run" / LOCK).exists()
    assert (record.status, record.environment.command) == ("finished", "a command")
    assert read_record(tmp_path / "run") == record


def test_an_earlier_run_is_refused_replaced_or_resumed(scenario: Build, tmp_path: Path) -> None:
    first = interrupted(scenario, tmp_path)
    RunFolder(tmp_path).write("report.html", b"an old page")
    with pytest.raises(FedsimError, match="already holds a run"):
        run(scenario, tmp_path)
    opened = list[RunRecord | None]()
    resumed = run_into(scenario(**SHORT), tmp_path, command="test", existing="resume", on_open=opened.append)
    assert [record and record.started for record in opened] == [first.started]
    assert (resumed.started, resumed.arms[0]) == (first.started, first.arms[0])
    replaced = run(scenario, tmp_path, "replace")
    assert replaced.started != first.started
    assert not (tmp_path / "report.html").exists()


def test_a_resumed_run_without_a_record_starts_in_an_empty_folder(scenario: Build, tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").write("salt", b"the salt of a run without a record")
    assert run(scenario, tmp_path / "run", "resume").status == "finished"
    assert not (tmp_path / "run" / "salt").exists()


def test_only_a_retry_replaces_failed_and_unreadable_runs(scenario: Build, tmp_path: Path) -> None:
    failed = interrupted(scenario, tmp_path).model_copy(update={"status": "failed"})
    RunFolder(tmp_path).write_record(failed)
    assert run(scenario, tmp_path, "retry").started != failed.started
    RunFolder(tmp_path).write_record(failed)
    assert run(scenario, tmp_path, "resume").started == failed.started
    (tmp_path / RECORD).write_text("half a rec")
    with pytest.raises(FedsimError, match="cannot be read"):
        run(scenario, tmp_path, "resume")
    assert (tmp_path / RECORD).read_text() == "half a rec"
    assert run(scenario, tmp_path, "retry").status == "finished"
    assert (tmp_path / UNREADABLE).read_text() == "half a rec"
    assert run(scenario, tmp_path, "replace").status == "finished"  # the renamed record is a file of fedsim


def test_a_retry_resumes_an_interrupted_run(scenario: Build, tmp_path: Path) -> None:
    first = interrupted(scenario, tmp_path)
    assert run(scenario, tmp_path, "retry").arms[0] == first.arms[0]
    with pytest.raises(FedsimError, match="run of another scenario or seed"):
        run(scenario, tmp_path, "retry", seed=1)


def test_a_salt_is_kept_in_the_folder_and_given_to_the_attacks(scenario: Build, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("5a" * 16)
    built = scenario(attacks=[{"name": "inverting-gradients", "max_iterations": 2}], threat={"victims": 2})
    plain = run_into(built, tmp_path / "plain", command="test")
    salted = run_into(built, tmp_path / "salted", command="test", salt=tmp_path / "salt")
    assert read_salt(tmp_path / "salted" / "salt") == b"Z" * 16
    assert not (tmp_path / "plain" / "salt").exists()
    scores = [record.arms[0].attacks[0].victims[0].scores[0].values for record in (plain, salted)]
    assert scores[0] != scores[1]


def test_code_that_ends_the_process_is_an_error_that_names_the_scenario(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object, **__: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("fedsim.experiment.runner.run", leave)
    with pytest.raises(FedsimError, match="code that my.toml names ended the process with exit code 0"):
        run_into(scenario(**SHORT), tmp_path / "run", command="test", source="my.toml")
    assert not (tmp_path / "run").exists(), "an empty folder is removed"


def test_a_stop_request_ends_the_run(scenario: Build, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_into(scenario(**SHORT), tmp_path / "run", command="test", should_stop=lambda: True)
    assert not (tmp_path / "run" / LOCK).exists()
