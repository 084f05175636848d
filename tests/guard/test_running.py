"""An app in a process of its own: its numbers come back, and what it does beside that stays there."""

from __future__ import annotations

import io
import json
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, Metadata, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.core.types import Tensors
from fedsim.guard import running
from fedsim.guard.policy import read_policy
from fedsim.guard.running import AppProcesses, AppTask, Drain
from fedsim.processes import frames
from tests.guard import site

Write = Callable[[Any], None]
FAB = site.archive()
BYTES = pytest.param("bytes", "wrote", 1 << 29, 1 << 30, marks=pytest.mark.slow)
ISOLATIONS = ["none", pytest.param("sandbox", marks=site.needs_walls)]


def order(mode: str, message_type: str = "train", **config: str) -> AppTask:
    metadata = Metadata(5, "m", 1, 7, "", "3", time.time(), 3600.0, message_type)
    message = Message(site.content(mode, **config), metadata=metadata)  # pyright: ignore[reportCallIssue]
    return AppTask(message, Context(5, 7, {}, RecordDict(), {}), 9, FAB)


def processes(folder: Path, **apps: Any) -> AppProcesses:
    site.policy(folder, apps=apps)
    return AppProcesses(read_policy(folder / "guard.toml").apps, folder)


def report(folder: Path, app: AppProcesses) -> dict[str, Any]:
    """Return what the app says that it could do."""
    (folder / "ledger.jsonl").touch()
    (folder / "ledger.key").touch()
    places = {name: str(folder / file) for name, file in FILES.items()}
    app.run(order("report", places=json.dumps({**places, "guard": os.getpid(), "port": 9})), site.START)
    return json.loads((folder / "app.log").read_text().splitlines()[-1])


FILES = {"ledger": "ledger.jsonl", "key": "ledger.key", "data": "data.txt", "policy": "guard.toml"}


@site.needs_walls
def test_an_app_in_the_sandbox_reaches_its_data_and_its_folder_alone(tmp_path: Path) -> None:
    app = processes(tmp_path)
    first, second = report(tmp_path, app), report(tmp_path, app)
    possible = {"its data", "its folder", "mode in its folder", "arguments"}
    assert {deed for deed, how in first.items() if how == "done"} == possible
    assert (first["calls"], second["calls"]) == (1, 2)  # its state outlives a message


def test_without_isolation_an_app_does_what_the_user_may_do(tmp_path: Path) -> None:
    deeds = report(tmp_path, processes(tmp_path, isolation="none"))
    assert {deeds[name] for name in ("empty its log", "rewrite its log")} == {"OSError"}
    possible = (
        "ledger",
        "key",
        "guard",
        "end the guard",
        "mode of the ledger",
        "mode of the policy",
        "mode by a handle",
    )
    assert {deeds[name] for name in possible} == {"done"}
    assert {deeds[name] for name in ("owner of the ledger", "times of the key")} == {"done"}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_4000_folders_of_an_app_are_removed_when_they_are_cleaned(tmp_path: Path, isolation: str) -> None:
    app = processes(tmp_path, isolation=isolation)
    app.run(order("folders"), site.START)
    (folder,) = tmp_path.glob("app-*")
    assert any(folder.iterdir()) is (isolation == "none")  # in the sandbox it is in memory, and gone with the app
    app.clean()
    assert list(tmp_path.glob("app-*")) == []


@site.needs_walls
@pytest.mark.parametrize(("mode", "word", "least", "most"), [("files", "made", 9_000, 10_000), BYTES])
def test_an_app_in_the_sandbox_has_room_for_so_many_files_and_bytes(
    tmp_path: Path, mode: str, word: str, least: int, most: int
) -> None:
    app = processes(tmp_path)
    app.run(order(mode), site.START)
    (line,) = [line for line in (tmp_path / "app.log").read_text().splitlines() if line.startswith(word)]
    assert least <= int(line.split()[1]) <= most


@site.needs_walls
def test_what_an_app_in_the_sandbox_writes_to_a_writable_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    app = processes(tmp_path, writable=["cache"])
    app.run(order("cache", cache=str(tmp_path / "cache")), site.START)
    assert (tmp_path / "cache" / "kept").read_text() == "kept"
    assert (tmp_path / "cache" / "kept").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_apps_numbers_come_back_with_names_shapes_and_types(tmp_path: Path, isolation: str) -> None:
    arrays = processes(tmp_path, isolation=isolation).run(order("metrics"), site.START)
    assert {name: (t.shape, t.dtype) for name, t in arrays.items()} == {
        name: (t.shape, t.dtype) for name, t in site.START.items()
    }
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.01)) for tensor in arrays.values())


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_apps_figures_come_back_by_name_and_no_others(tmp_path: Path, isolation: str) -> None:
    expected = {name: torch.zeros((), dtype=torch.float64) for name in ("accuracy", "absent", "list", "count")}
    figures = processes(tmp_path, isolation=isolation).run(order("", "evaluate"), expected)
    assert {name: float(tensor) for name, tensor in figures.items()} == pytest.approx(
        {"accuracy": 0.75, "absent": math.nan, "list": math.nan, "count": 3.0}, nan_ok=True
    )


def test_an_app_that_fails_gives_no_figures(tmp_path: Path) -> None:
    expected = {"accuracy": torch.zeros((), dtype=torch.float64)}
    with pytest.raises(FedsimError, match="the app's process ended with exit code 1"):
        processes(tmp_path, isolation="none").run(order("error", "evaluate"), expected)


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("names", 1),
        ("death", 7),
        pytest.param("error", 1, marks=pytest.mark.slow),
        pytest.param("types", 1, marks=pytest.mark.slow),
    ],
)
def test_an_app_that_fails_gives_no_numbers(tmp_path: Path, mode: str, code: int) -> None:
    with pytest.raises(FedsimError, match=f"the app's process ended with exit code {code}"):
        processes(tmp_path, isolation="none").run(order(mode), site.START)


def test_an_app_prints_as_much_as_it_likes_and_the_log_grows_by_a_mebibyte(tmp_path: Path) -> None:
    app = processes(tmp_path, isolation="none")
    (tmp_path / "app.log").write_bytes(b"earlier\n")
    assert set(app.run(order("print"), site.START)) == set(site.START)
    log = (tmp_path / "app.log").read_bytes()
    assert log.startswith(b"earlier\n")
    assert log.endswith(b"xxx")
    assert len(log) == len(b"earlier\n") + (1 << 20)


def test_an_app_without_a_log_prints_to_nowhere(tmp_path: Path) -> None:
    site.policy(tmp_path)
    apps = read_policy(tmp_path / "guard.toml").apps.model_copy(update={"log": None, "isolation": "none"})
    assert set(AppProcesses(apps, tmp_path).run(order("print"), site.START)) == set(site.START)
    assert not (tmp_path / "app.log").exists()


def test_an_archive_that_is_none_gives_no_numbers(tmp_path: Path) -> None:
    bad = replace(order(""), fab=b"no archive")
    with pytest.raises(FedsimError, match="ended with exit code 1"):
        processes(tmp_path, isolation="none").run(bad, site.START)


def test_an_app_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="longer than 0.01 seconds"):
        processes(tmp_path, isolation="none", seconds=0.01).run(order(""), site.START)


@pytest.mark.parametrize(
    "write",
    [
        lambda stream: stream.write(b"xx"),
        lambda stream: frames.write_parts(stream, b"1234"),
        lambda stream: frames.write_parts(stream, b"1234", b"", b""),
        lambda stream: frames.write_parts(stream, b"1234", bytes(101)),
        lambda stream: stream.write(frames.frame(frames.PART, b"1234") + frames.frame(frames.JSON, b"")),
    ],
)
def test_answers_of_another_form_are_refused(write: Write) -> None:
    stream = io.BytesIO()
    write(stream)
    with pytest.raises(FedsimError, match="the app's answer cannot be read"):
        running._parts(stream, 100)


def test_too_few_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def writing(
        _self: AppProcesses, _folder: Path, _order: AppTask, _names: list[str], answers: Any, _most: int
    ) -> None:
        frames.write_parts(answers, b"1234", b"")

    monkeypatch.setattr(AppProcesses, "_run_process", writing)
    with pytest.raises(FedsimError, match="4 bytes of numbers, expected 8200"):
        processes(tmp_path).run(order(""), site.START)


def test_the_states_of_the_latest_series_are_kept(tmp_path: Path) -> None:
    app = processes(tmp_path)
    for series in (0, 1, 0, *range(2, running._MOST_SERIES + 1)):
        app._keep(series, b"state")
    assert list(app._states) == [0, *range(2, running._MOST_SERIES + 1)]


def test_numbers_of_both_types_come_back() -> None:
    like: Tensors = {"a": torch.zeros(2), "b": torch.zeros(1, 2, dtype=torch.float64), "c": torch.zeros(())}
    numbers = torch.tensor([1.0, 2.0]).numpy().tobytes() + torch.tensor([3.0, 4.0]).double().numpy().tobytes()
    tensors = running._tensors(numbers + torch.tensor(5.0).numpy().tobytes(), like)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [1, 2], "b": [[3, 4]], "c": 5}
    assert tensors["b"].dtype == torch.float64


def test_integers_and_booleans_come_back() -> None:
    like: Tensors = {"count": torch.tensor(0), "mask": torch.zeros(2, dtype=torch.bool), "w": torch.zeros(1)}
    given = {"count": torch.tensor(9), "mask": torch.tensor([True, False]), "w": torch.tensor([1.5])}
    numbers = b"".join(given[name].numpy().tobytes() for name in like)
    tensors = running._tensors(numbers, like)
    assert all(torch.equal(tensors[name], given[name]) for name in like)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: t.dtype for name, t in like.items()}


def drained(content: bytes, limit: int) -> bytes:
    """Return what is copied of a content that is larger than a pipe."""
    reading, writing = os.pipe()
    file = io.BytesIO()
    drain = Drain(os.fdopen(reading, "rb", 0), file, limit)
    with os.fdopen(writing, "wb", 0) as pipe:
        left = memoryview(content)
        while left:
            left = left[pipe.write(left) or 0 :]
    drain.finish(60)
    return file.getvalue()


@pytest.mark.parametrize("limit", [0, 1, 99_999, 299_999, 300_000, 300_001])
def test_the_first_bytes_are_copied_and_all_are_read(limit: int) -> None:
    content = os.urandom(300_000)
    assert drained(content, limit) == content[:limit]


def test_a_file_that_cannot_be_written_does_not_stop_the_writer(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    file = (tmp_path / "log").open("ab")
    file.close()
    drain = Drain(os.fdopen(reading, "rb", 0), file, 10**6)
    for _ in range(40):
        os.write(writing, bytes(10_000))
    os.close(writing)
    drain.finish(60)
    assert (tmp_path / "log").read_bytes() == b""


def test_a_pipe_that_stays_open_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    drain = Drain(os.fdopen(reading, "rb", 0), io.BytesIO(), 10)
    done = threading.Event()
    threading.Thread(target=lambda: (drain.finish(0.1), done.set()), daemon=True).start()
    assert done.wait(60)
    os.close(writing)
