"""Programs that are killed without a chance to tidy up: what they started ends too."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedsim.core.supervisor import descendants
from tests.cli import typed
from tests.processes.waiting import until

ROOT = Path(__file__).parent.parent.parent
MARK = "FEDSIM_TEST_MARK"
RUN = """
title = "kills"
data = { name = "digits" }
model = { name = "mlp", width = 8, depth = 1 }
attacks = [{ name = "inverting-gradients", max_iterations = 1000000, threshold = 0.0, patience = 1000000 }]
"""
SLOW = """
import time
from torch import nn
from fedsim.core.registry import for_scenarios

class Net(nn.Linear):
    def forward(self, x):
        time.sleep(0.1)
        return super().forward(x.flatten(1))

@for_scenarios
def make(spec):
    return Net(64, spec.classes)
"""


@contextlib.contextmanager
def started(*arguments: str, cwd: Path) -> Iterator[tuple[typed.Started, Callable[[], set[int]]]]:
    """Start the command; yield it and what tells the processes that it, or what it started, started."""
    mark = f"{MARK}={uuid.uuid4()}"

    def others() -> set[int]:
        found: set[int] = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark.encode() in (path / "environ").read_bytes():
                    found.add(int(path.name))
        return found

    process = typed.Started(arguments, cwd, variables={MARK: mark.partition("=")[2], "TMPDIR": str(cwd / "tmp")})
    try:
        yield process, others
    finally:
        process.end()
        for pid in others():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.mark.parametrize("wait", [0.0, *(pytest.param(own, marks=pytest.mark.slow) for own in (0.1, 0.5, 2.0))])
def test_the_workers_of_a_sweep_end_with_it(folder: Path, wait: float) -> None:
    (folder / "s.toml").write_text(RUN + "federation = { clients = 4 }\n[sweep]\nseeds = [1, 2]\n")
    with started("sweep", "s.toml", "--jobs", "2", "--out", "o", cwd=folder) as (process, others):
        assert until(lambda: len(others()) >= 2)
        time.sleep(wait)
        process.signal(signal.SIGKILL)
        assert until(lambda: not others(), 20.0)  # a process that begins first has to come to where it looks
        assert not list((folder / "o").rglob("report.html"))


@pytest.mark.parametrize("wait", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_pool_of_a_run_ends_with_it(folder: Path, wait: float) -> None:
    (folder / "slow_net.py").write_text(SLOW)
    tables = "federation = { clients = 40, workers = 2, rounds = 100, batch_size = 1 }\n"
    (folder / "s.toml").write_text(
        RUN.replace('{ name = "mlp", width = 8, depth = 1 }', '{ name = "slow_net:make" }') + tables
    )
    with started("run", "s.toml", "--out", "o", cwd=folder) as (process, others):
        assert until(lambda: len(others()) >= 2)
        time.sleep(wait)
        process.signal(signal.SIGKILL)
        assert until(lambda: not others(), 60.0)  # they come to where they look after torch is loaded


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4, 6])
def test_flower_processes_and_their_folder_go_with_a_killed_run(folder: Path, processes: int) -> None:
    tables = 'federation = { clients = 3, rounds = 50, engine = "superlink" }\n'
    (folder / "s.toml").write_text(RUN + tables)
    with started("run", "s.toml", "--out", "o", cwd=folder) as (process, others):
        assert until(lambda: len(others()) >= processes)
        process.signal(signal.SIGKILL)
        assert until(lambda: not others(), 20.0)
        assert until(lambda: not list((folder / "tmp").iterdir()), 20.0)


def test_a_child_and_the_folder_of_a_parent_that_is_killed_go(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "file").write_text("")
    told = tmp_path / "told"
    code = (
        "import time\nfrom pathlib import Path\nfrom fedsim.processes.child_process import ChildProcess\n"
        "from fedsim.processes.reaper import remove_if_killed\n"
        f"with remove_if_killed(Path({str(watched)!r})):\n"
        "    child = ChildProcess(['/bin/sh', '-c', 'setsid sleep 1000 & sleep 1000'])\n"
        f"    Path({str(told)!r}).write_text(str(child.pid))\n"
        "    time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert until(lambda: told.exists() and told.read_text() != "")
        child = int(told.read_text())
        assert until(lambda: len(descendants(child)) == 3)
        started = [child, *descendants(child)]
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 20.0)
    assert until(lambda: not watched.exists(), 20.0)
