"""A hostile run fails alone."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedsim.experiment.sweep.executors import RunOrder, processes
from fedsim.experiment.sweep.executors.processes import ProcessExecutor
from fedsim.scenario import Sweep
from tests.experiment.sweep.sweeping import HERE, made, scenario


@pytest.mark.parametrize(
    ("mood", "limits", "cause", "why"),
    [
        pytest.param("hang", {"minutes": 0.25}, "timeout", "longer than sweep.minutes", marks=pytest.mark.slow),
        ("die", {}, "killed", "ended with -9"),
        pytest.param("eat", {"memory": 8}, "error", "MemoryError", marks=pytest.mark.slow),
    ],
)
def test_a_hostile_run_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mood: str, limits: dict[str, Any], cause: str, why: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    wanted = scenario(grid={"data.name": [f"{HERE}:noisy", "digits"]}, **limits)
    ended = made(tmp_path / "s", wanted, executor=ProcessExecutor())
    assert [outcome.status for outcome in ended] == ["failed", "finished"]
    assert ended[0].failure is not None
    assert (ended[0].failure.cause, why in ended[0].failure.why) == (cause, True)
    monkeypatch.setenv("MOOD", "")
    ended = made(tmp_path / "s", wanted)
    assert sorted(outcome.status for outcome in ended) == ["finished", "reused"]
    assert "{not json" in (tmp_path / "s" / "logs" / "worker-0.log").read_text()


@pytest.mark.parametrize(
    ("code", "cause", "why"),
    [
        ("write(frames.json_frame({'why': 'no', 'cause': 'disk'}))", "disk", "no"),
        ("write(b'{not')", "killed", "its process ended with 0, perhaps for lack of memory; logs/w.log holds"),
        ("write(frames.frame(b'x', b''))", "killed", "its process sent a frame of kind b'x', expected b'j'; logs/"),
        ("write(frames.json_frame(' ' * (1 << 20)))", "killed", "its process sent 1,048,578 bytes, expected at most"),
        ("time.sleep(600)", "timeout", "it took longer than sweep.minutes = 0.02"),
    ],
)
def test_an_answer_that_cannot_be_read_or_comes_too_late_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, cause: str, why: str
) -> None:
    program = f"import os, sys, time\nfrom fedsim.processes import frames\nwrite = sys.stdout.buffer.write\n{code}\n"
    monkeypatch.setattr(processes, "command_of", lambda *_: [sys.executable, "-c", program])
    worker = ProcessExecutor().worker(0, Sweep(minutes=0.02 if "sleep" in code else None), tmp_path / "w.log")
    failure = worker.make(RunOrder("{}", str(tmp_path), ""))
    worker.stop()
    assert failure is not None
    assert (failure.cause, why in failure.why) == (cause, True), failure


def test_another_thread_stops_a_run_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ["/bin/sh", "-c", f"setsid sleep 1234 & echo $! > {tmp_path}/pid; wait"]
    monkeypatch.setattr(processes, "command_of", lambda *_: program)
    worker = ProcessExecutor().worker(0, Sweep(), tmp_path / "w.log")
    failures = list[Any]()
    run = threading.Thread(target=lambda: failures.append(worker.make(RunOrder("{}", str(tmp_path), ""))))
    run.start()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    worker.stop()
    run.join(30)
    assert [failure.cause for failure in failures] == ["killed"]
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    again = worker.make(RunOrder("{}", str(tmp_path), ""))
    assert again is not None
    assert again.why == "the sweep was stopped before it began"
