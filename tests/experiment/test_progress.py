"""A run in progress says interrupted until it is finished, and declares its metrics."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedsim.experiment.progress import RunInProgress
from fedsim.questions.base import QuestionContext
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


def test_what_is_known_of_an_arm_is_on_disk_at_once(folder: RunFolder) -> None:
    run = begun(folder)
    run.begin(arm("first", 1))
    run.end(1.0)
    run.begin(records.arm("second", []))
    run.arrays["arm-1/ig/guesses"] = np.ones(2)
    run.add(records.attack("ig", records.recovered(3)), QuestionContext(), 2.0)
    run.arrays["arm-1/dia/guesses"] = np.zeros(2)
    run.add(records.attack("dia", records.recovered(2)), QuestionContext(), 3.0)
    killed = read_record(folder.path)
    assert killed == run.record
    assert [[len(attack.victims) for attack in arm.attacks] for arm in killed.arms] == [[1], [3, 2]]
    assert (killed.status, killed.arms[1].seconds) == ("interrupted", 3.0)
    assert {"psnr", "ssim"} <= set(killed.metrics_by_name)
    assert sorted(folder.read_arrays()) == ["arm-1/dia/guesses", "arm-1/ig/guesses"]
    run.end(4.0)
    finished = run.finish()
    assert (finished.status, read_record(folder.path)) == ("finished", finished)
    assert finished.ended is not None
    assert sorted(path.name for path in folder.path.iterdir()) == [".fedsim-files", "arrays.npz", "record.json"]


def test_an_arm_is_written_whole_twice_however_many_attacks_it_has(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    whole = RunFolder.write_record
    monkeypatch.setattr(RunFolder, "write_record", lambda self, record: (written.append("record"), whole(self, record)))
    run = begun(folder)
    run.begin(records.arm("all", []))
    for number in range(8):
        run.add(records.attack(f"ig {number}", records.recovered(1)), QuestionContext(), 1.0)
    run.end(1.0)
    assert written == ["record"] * 2
    assert len(read_record(folder.path).arms[0].attacks) == 8


@pytest.mark.parametrize("cut", [1, 40])
def test_of_a_part_that_a_kill_cut_off_nothing_is_read(folder: RunFolder, cut: int) -> None:
    run = begun(folder)
    run.begin(records.arm("all", []))
    for label in ("ig", "dia"):
        run.add(records.attack(label, records.recovered(1)), QuestionContext(), 1.0)
    parts = folder.path / "in-work" / "parts.jsonl"
    parts.write_bytes(parts.read_bytes()[:-cut])
    assert [attack.label for attack in read_record(folder.path).arms[0].attacks] == ["ig"]


def test_a_part_that_the_record_has_already_or_that_is_of_another_arm_counts_once(folder: RunFolder) -> None:
    run = begun(folder)
    run.begin(records.arm("all", []))
    run.add(records.attack("ig", records.recovered(1)), QuestionContext(), 1.0)
    parts = (folder.path / "in-work" / "parts.jsonl").read_bytes()
    for step in (lambda: run.end(2.0), lambda: run.begin(records.arm("next", []))):
        step()
        (folder.path / "in-work").mkdir()
        (folder.path / "in-work" / "parts.jsonl").write_bytes(parts)
        assert read_record(folder.path) == run.record
    empty = run.record.model_copy(update={"arms": ()})
    (folder.path / "record.json").write_text(empty.model_dump_json())  # somebody has taken its arms away
    assert read_record(folder.path) == empty


def test_an_error_of_a_later_arm_is_told_and_one_of_the_first_leaves_nothing(folder: RunFolder) -> None:
    run = begun(folder)
    folder.path.mkdir()
    run.fail(ValueError("five"))
    assert not (folder.path / "record.json").exists()
    run.begin(arm("first", 1))
    run.fail(ValueError("five"))
    failed = read_record(folder.path)
    assert (failed.status, [(one.subject, one.reason) for one in failed.failures]) == ("failed", [("run", "five")])


def test_it_stops_only_where_somebody_asked(folder: RunFolder) -> None:
    begun(folder).check_cancelled()
    with pytest.raises(KeyboardInterrupt):
        begun(folder, stops=True).check_cancelled()


def test_the_metric_that_decides_is_declared_without_any_figure(folder: RunFolder) -> None:
    run = RunInProgress(folder, records.run([], metrics=()), {}, cast("Any", None), lambda: False, cast("Any", None))
    run.begin(records.arm("all", [], rounds=()))
    assert [metric.name for metric in read_record(folder.path).metrics] == ["ssim"]
