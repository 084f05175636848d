"""One order of a sweep: a run, and what is said where it fails."""

import errno
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment.sweep.executors import worker
from fedsim.record.store import read_record
from fedsim.scenario import Scenario, parse
from tests.experiment.sweep.sweeping import SMALL


def order(path: Path, **more: Any) -> dict[str, str]:
    one: Scenario = parse({key: value for key, value in {**SMALL, **more}.items() if key != "sweep"}, "test")
    return {"scenario": one.model_dump_json(), "path": str(path), "command": "the sweep"}


def test_a_run_is_made_and_made_again_only_where_it_has_to_be(tmp_path: Path) -> None:
    asked = order(tmp_path / "run")
    assert worker.answer(asked) == {"why": None, "cause": None}
    first = read_record(tmp_path / "run")
    assert (first.status, first.environment.command) == ("finished", "the sweep")
    assert worker.answer(asked) == {"why": None, "cause": None}
    again = read_record(tmp_path / "run")
    assert again.started == first.started
    assert again.arms[0].seconds == first.arms[0].seconds, "the finished arm was kept"


def test_a_record_that_cannot_be_read_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("half a rec")
    assert worker.answer(order(tmp_path)) == {"why": None, "cause": None}
    assert read_record(tmp_path).status == "finished"
    assert (tmp_path / "record.json.corrupted").read_text() == "half a rec"


@pytest.mark.parametrize(
    ("error", "why", "cause"),
    [
        (FedsimError("no such data"), "no such data", "error"),
        (MemoryError(), "it ran out of the memory that sweep.memory allows", "error"),
        (LookupError("a bug"), "LookupError: a bug", "error"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left", "disk"),
    ],
)
def test_whatever_a_run_raises_is_told_with_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str, cause: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(worker, "run_into", fail)
    found = worker.answer(order(tmp_path / "run"))
    assert found["cause"] == cause
    assert why in (found["why"] or "")


def test_a_full_disk_behind_an_error_of_ours_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FedsimError("cannot write") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(worker, "run_into", fail)
    assert worker.answer(order(tmp_path / "run")) == {"why": "cannot write", "cause": "disk"}
