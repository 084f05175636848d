"""A run in progress says interrupted until it is finished, and declares its metrics."""

from pathlib import Path
from typing import Any, cast

import pytest

from fedsim.experiment.progress import RunInProgress, declaring
from fedsim.record.store import RunFolder, read_record
from tests.report import records


def begun(folder: RunFolder, stops: bool = False) -> RunInProgress:
    empty = records.run([], status="interrupted", ended=None)
    return RunInProgress(folder, empty, {}, cast("Any", None), lambda: stops, cast("Any", None))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def arm(name: str, hits: int) -> Any:
    return records.arm(name, [records.attack("ig", records.recovered(hits))])


def test_what_is_known_of_an_arm_is_on_disk_at_once_and_replaced_later(folder: RunFolder) -> None:
    run = begun(folder)
    folder.path.mkdir()
    run.keep(arm("first", 1), 0)
    assert read_record(folder.path).status == "interrupted"
    run.keep(arm("second", 2), 1)
    run.keep(arm("second", 3), 1)
    kept = read_record(folder.path)
    assert [(own.name, len(own.attacks[0].victims)) for own in kept.arms] == [("first", 1), ("second", 3)]
    assert {"psnr", "ssim"} <= set(kept.declared)
    finished = run.finish()
    assert (finished.status, read_record(folder.path)) == ("finished", finished)
    assert finished.ended is not None


def test_an_error_of_a_later_arm_is_told_and_one_of_the_first_leaves_nothing(folder: RunFolder) -> None:
    run = begun(folder)
    folder.path.mkdir()
    run.fail(ValueError("five"))
    assert not (folder.path / "record.json").exists()
    run.keep(arm("first", 1), 0)
    run.fail(ValueError("five"))
    failed = read_record(folder.path)
    assert (failed.status, [(own.who, own.why) for own in failed.failures]) == ("failed", [("run", "five")])


def test_it_stops_only_where_somebody_asked(folder: RunFolder) -> None:
    begun(folder).look_up()
    with pytest.raises(KeyboardInterrupt):
        begun(folder, stops=True).look_up()


def test_the_metric_that_decides_is_declared_without_any_figure() -> None:
    assert [own.name for own in declaring(records.run([])).metrics] == ["ssim"]
