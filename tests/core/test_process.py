"""Processes of our own: settings that the user keeps, a bound on memory, and an end with their parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.core import process

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> str:
    told = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    process.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.slow
def test_notices_of_flower_are_told_nobody_though_opacus_opens_the_root_log() -> None:
    code = (
        "from fedsim.core import process; process.prepare()\n"
        "import logging, opacus\n"
        "from flwr.common.logger import log\n"
        "log(logging.INFO, 'a notice'); log(logging.WARNING, 'a warning'); print(len(logging.getLogger().handlers))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "FLWR_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "1"  # else this test shows nothing
    assert "a notice" not in done.stderr
    assert done.stderr.count("a warning") == 1


def test_memory_beyond_the_bound_is_refused() -> None:
    code = (
        "from fedsim.core.process import limit_memory\nlimit_memory(0)\nlimit_memory(0.5)\n"
        "try:\n    bytearray(1 << 30)\nexcept MemoryError:\n    print('refused')"
    )
    assert python(code) == "refused"


def test_own_modules_are_found_behind_all_others_and_once_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "package").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "own_folders", [])
    monkeypatch.setattr(sys, "path", ["/usr/lib/python3", "/usr/lib/python3/site-packages", "/other"])
    before = [*sys.path]
    process.find_own_modules("mine")
    assert sys.path == before, "a program that offers no folder imports from none"
    process.offer_working_folder()
    process.offer_working_folder()
    assert process.own_folders == [str(tmp_path)]
    process.find_own_modules("pandas")
    assert sys.path == before
    process.find_own_modules("package.mine")
    process.find_own_modules("mine")
    assert sys.path == [*before, str(tmp_path)]


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import os, sys, time\nfrom fedsim.core.process import follow\nfollow(int(sys.argv[1]))\n"
        "print(os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    code = (
        "import os, subprocess\nfrom fedsim.core.process import command_of\n"
        "child = subprocess.Popen(command_of('sleeper', str(os.getpid())), stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline().strip())"
    )
    pid = int(python(code, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}"))
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.05)
