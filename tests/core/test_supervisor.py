"""A program and all that it started end together, whoever ends first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.core import supervisor

FAMILY = """
import os, sys, time
def leave(depth):
    if os.fork() == 0:
        os.setsid()
        if depth:
            leave(depth - 1)
        open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
        time.sleep(600)
leave(2)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
while open(sys.argv[1]).read().count("\\n") < 4:
    time.sleep(0.01)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def start(tmp_path: Path, then: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Start a program with children in sessions of their own that does something then; return all of their numbers."""
    told = tmp_path / "told"
    told.touch()
    program = [sys.executable, "-c", FAMILY + then, str(told)]
    process = subprocess.Popen(supervisor.command_of(program), stdin=subprocess.DEVNULL)
    assert until(lambda: told.read_text().count("\n") == 4)
    return process, [int(line) for line in told.read_text().split()]


@pytest.mark.parametrize(
    ("then", "code"),
    [("os._exit(7)", 7), ("os._exit(0)", 0), ("os.kill(os.getpid(), 9)", -signal.SIGKILL)],
)
def test_what_a_program_leaves_behind_ends_with_it_and_its_end_is_told(tmp_path: Path, then: str, code: int) -> None:
    process, pids = start(tmp_path, then)
    assert process.wait(30) == code
    assert not any(map(is_alive, pids))


def test_all_end_when_somebody_asks_for_it(tmp_path: Path) -> None:
    process, pids = start(tmp_path, "time.sleep(600)")
    assert all(map(is_alive, pids))
    process.terminate()
    assert process.wait(30) == -signal.SIGKILL
    assert not any(map(is_alive, pids))


def test_all_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    program = [sys.executable, "-c", FAMILY + "time.sleep(600)", str(told)]
    code = f"import subprocess\nfrom fedsim.core import supervisor\nsubprocess.run(supervisor.command_of({program!r}))"
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert until(lambda: told.read_text().count("\n") == 4)
    pids = [int(line) for line in told.read_text().split()]
    parent.kill()
    parent.wait()
    assert until(lambda: not any(map(is_alive, pids)))


def test_a_keeper_of_another_process_starts_nothing(tmp_path: Path) -> None:
    command = supervisor.command_of([sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"])
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, check=False).returncode == 0
    assert not (tmp_path / "ran").exists()
