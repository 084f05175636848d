"""Isolated attacks that look for the truth, for secrets, and for a life after the run."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsim.processes import landlock
from fedsim.record.store import read_record
from tests.processes.waiting import until

ROOT = Path(__file__).parents[2]
ATTACK = '''
"""spy: looks where it must not."""

import os, socket, sys, time
from fedsim.core.hooks import Attack
from fedsim.core.registry import attack
from fedsim.core.types import Config, Reconstruction
import torch


class SpyConfig(Config):
    folder: str = ""
    lasts: bool = False


@attack("spy", summary="looks where it must not")
class Spy(Attack[SpyConfig]):
    def search(self, observation, generator, on_step):
        if self.config.lasts:
            self.leave()
        folder, keeper = self.config.folder, os.getppid()
        deeds = {
            "scenario": lambda: open(f"{folder}/s.toml"),
            "salt": lambda: open(f"{folder}/out/salt"),
            "record": lambda: open(f"{folder}/out/record.json"),
            "names": lambda: os.listdir(f"{folder}/out"),
            "memory": lambda: open(f"/proc/{keeper}/mem", "rb"),
            "memory of the run": lambda: open(f"/proc/{parent_of(keeper)}/mem", "rb"),
            "signal": lambda: os.kill(keeper, 0),
            "write": lambda: open(f"{folder}/attacks/left", "w"),
            "temporary": lambda: open("/tmp/left-by-spy", "w"),
            "network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
            "environment": lambda: os.environ["FEDSIM_TEST_SECRET"],
        }
        facts = {name: float(works(deed)) for name, deed in deeds.items()}
        guess = torch.rand(1, *observation.spec.shape, generator=generator)
        return Reconstruction.of(guess, diagnostics=facts)

    def leave(self):
        if os.fork() == 0:
            os.setsid()
        while True:
            time.sleep(1)


def parent_of(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])


def works(deed):
    try:
        deed()
    except (OSError, KeyError, ValueError):
        return False
    return True
'''
RUN = """
title = "spied on"
data = {{ name = "digits" }}
model = {{ name = "mlp", width = 8, depth = 1 }}
federation = {{ clients = 2, batch_size = 1 }}
attacks = [{{ name = "spy", folder = "{folder}", lasts = {lasts} }}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "spy.py").write_text(ATTACK)
    return tmp_path


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the run of a folder with a method of its own, which the server of `tests.cli.typed` would not find."""
    command = [sys.executable, "-P", "-c", "from fedsim.cli.main import main; main()"]
    process = subprocess.Popen(
        [*command, "run", "s.toml", "--out", "out", "--isolate"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEDSIM_TEST_SECRET": "a token"},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(landlock.version() < 6, reason="this machine's Landlock is older than version 6")
def test_a_spy_learns_nothing_of_the_run_and_leaves_nothing(folder: Path) -> None:
    (folder / "s.toml").write_text(RUN.format(folder=folder, lasts="false"))
    with started(folder) as process:
        assert process.wait() == 0
    (victim,) = read_record(folder / "out").arms[0].attacks[0].victims
    assert victim.failure is None
    assert len(victim.diagnostics) == ATTACK.count("lambda:")
    assert not [name for name, learnt in victim.diagnostics.items() if learnt]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_attack_and_its_children_end_with_the_run(folder: Path, how: signal.Signals) -> None:
    (folder / "s.toml").write_text(RUN.format(folder=folder, lasts="true"))
    with started(folder) as process:
        assert until(lambda: len(family(process.pid)) == 3), "a keeper, the attack, and its child"
        pids = family(process.pid)
        process.send_signal(how)
        assert process.wait(60) == (130 if how == signal.SIGINT else -how)
        assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 20.0)


LOOK_UP = '''
"""look-up: searches the installed packages for the examples of data sets."""

import torch
from fedsim.core.hooks import Attack
from fedsim.core.registry import attack, get
from fedsim.core.types import Config, Reconstruction


class LookUpConfig(Config):
    pass


@attack("look-up", summary="searches for data files")
class LookUp(Attack[LookUpConfig]):
    def search(self, observation, generator, on_step):
        facts = {f"files of {name}": float(files) for name, files in readable().items()}
        facts |= {f"set {name}": float(loads(name)) for name in ("digits", "breast-cancer", "mnist5k", "cifar10")}
        return Reconstruction.of(torch.rand(1, *observation.spec.shape, generator=generator), diagnostics=facts)


def loads(name):
    try:
        method = get("dataset", name)
        method.make(method.config())
    except Exception:
        return False
    return True
'''
SEARCH = '''

def readable():
    """Return the number of data files of each package that can be opened."""
    import importlib.util
    import os

    found = {}
    for name in ("sklearn", "torchvision", "fedsim.data", "numpy", "matplotlib", "torch"):
        spec = importlib.util.find_spec(name)
        found[name] = 0
        for place in () if spec is None else spec.submodule_search_locations:
            for root, _, files in os.walk(place):
                for file in files:
                    if file.endswith((".csv", ".gz", ".npz", ".npy", ".png", ".jpg", ".pkl", ".arff")):
                        try:
                            with open(os.path.join(root, file), "rb") as opened:
                                opened.read(1)
                        except OSError:
                            continue
                        found[name] += 1
    return found
'''


@pytest.mark.slow
@pytest.mark.skipif(landlock.version() < 1, reason="this machine has no Landlock")
def test_an_isolated_attack_finds_no_data_file_of_an_installed_package(tmp_path: Path) -> None:
    """The same search outside of the sandbox finds files: otherwise the absence of files proves nothing."""
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "look_up.py").write_text(LOOK_UP + SEARCH)
    spy = '{ name = "spy", folder = "", lasts = false }'
    text = RUN.format(folder="", lasts="false").replace(spy, '{ name = "look-up" }')
    (tmp_path / "s.toml").write_text(text)
    own: dict[str, Callable[[], dict[str, int]]] = {}
    exec(SEARCH, own)  # type: ignore[arg-type]
    here = own["readable"]()
    assert here["sklearn"] > 5
    assert here["numpy"] > 0
    with started(tmp_path) as process:
        assert process.wait() == 0
    (victim,) = read_record(tmp_path / "out").arms[0].attacks[0].victims
    assert victim.failure is None
    assert len(victim.diagnostics) == len(here) + 4
    assert not {name: count for name, count in victim.diagnostics.items() if count}


def family(pid: int) -> list[int]:
    """Return all descendants of a process."""
    try:
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *family(child))]
