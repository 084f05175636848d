"""Places that cannot be written: a full disk, a folder that is read-only, a name that is too long, two at a time."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fedsim.record.store import RunFolder, read_record
from tests.cli import typed
from tests.processes.waiting import until

RUN = """
title = "places"
data = { name = "digits" }
model = { name = "mlp", width = 8, depth = 1, dropout = 0.0 }
federation = { clients = 4 }
attacks = [{ name = "closed-form-linear" }]
"""
LONG = RUN.replace("closed-form-linear", "inverting-gradients").replace(
    '" }]', '", max_iterations = 1000000, threshold = 0.0, patience = 1000000 }]'
)
SWEEP = RUN + "[sweep]\nseeds = [1, 2]\n"

Mount = Callable[..., AbstractContextManager[Path]]


def fedsim(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = typed.fedsim(*arguments, cwd=cwd, columns=160)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("run", RUN), ("long", LONG), ("sweep", SWEEP)):
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


@pytest.fixture
def mount(folder: Path) -> Mount:
    """Mounts a small file system of its own; the test is skipped without the right to."""

    @contextlib.contextmanager
    def mounted(size: str) -> Iterator[Path]:
        place = folder / "small"
        place.mkdir()
        program = shutil.which("mount")
        done = program and subprocess.run(
            [program, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False, capture_output=True
        )
        if not done or done.returncode != 0:
            pytest.skip("no right to mount a file system")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)

    return mounted


def fill(place: Path) -> Path:
    """Use up what is left; the file that does."""
    ballast = place / ".fedsim-ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 4096)
    return ballast


@pytest.mark.slow
def test_a_full_disk_is_said_by_run_and_report_and_every_export(folder: Path, mount: Mount) -> None:
    with mount("4m") as place:
        assert fedsim("run", "run.toml", "--out", "small/full", cwd=folder)[0] == 0
        shutil.copytree(place / "full", folder / "whole")
        ballast = fill(place)
        for command in (("report",), ("export", "--csv"), ("export", "--parquet"), ("export", "--duckdb")):
            code, told = fedsim(*command, "small/full", cwd=folder)
            assert (code, "No space left on device" in told) == (2, True), told
        code, told = fedsim("run", "run.toml", "--out", "small/new", cwd=folder)
        assert (code, "No space left on device" in told) == (2, True), told
        ballast.unlink()
        for path in (folder / "whole").rglob("*"):  # nothing that was whole was cut, and nothing half-written stayed
            assert path.is_dir() or (place / "full" / path.relative_to(folder / "whole")).read_bytes()
        hidden = {path.name for path in place.rglob("*") if path.name.startswith(".fedsim-")}
        assert hidden == {".fedsim-files"}, "the manifest stays, and no part of a file"
        assert fedsim("run", "run.toml", "--out", "small/new", "--resume", cwd=folder)[0] == 0


@pytest.mark.slow
def test_a_sweep_ends_on_a_full_disk_says_so_again_and_goes_on_with_room(folder: Path, mount: Mount) -> None:
    with mount("4m") as place:
        assert fedsim("sweep", "sweep.toml", "--jobs", "1", "--out", "small/s", cwd=folder)[0] == 0
        for record in place.rglob("record.json"):
            record.unlink()
        ballast = fill(place)
        for _ in range(2):
            code, told = fedsim("sweep", "sweep.toml", "--jobs", "1", "--out", "small/s", cwd=folder)
            assert code in (1, 2)
            assert "No space left on device" in told
            assert "Make room" in told
        ballast.unlink()
        code, told = fedsim("sweep", "sweep.toml", "--jobs", "1", "--out", "small/s", cwd=folder)
        assert (code, "2 of 2 runs are finished" in told) == (0, True), told


@pytest.mark.slow
def test_a_folder_that_is_read_only_is_named(folder: Path, mount: Mount) -> None:
    with mount("4m") as place:
        assert fedsim("run", "run.toml", "--out", "small/r", cwd=folder)[0] == 0
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        commands = (
            ("run", "run.toml", "--out", "small/r", "--overwrite"),
            ("run", "run.toml", "--out", "small/other"),
            ("sweep", "sweep.toml", "--out", "small/s"),
            ("report", "small/r"),
            ("export", "small/r", "--csv"),
            ("demo", "--out", "small/demo.html"),
        )
        for command in commands:
            code, told = fedsim(*command, cwd=folder)
            assert (code, "cannot write to small" in told, "Read-only" in told) == (2, True, True), told


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "run.toml", "--out", "x" * 300),
        ("sweep", "sweep.toml", "--out", "x" * 300),
        ("tune", "run.toml", "--out", "x" * 300),
        ("demo", "--out", "x" * 300),
        ("report", "x" * 300),
        ("export", "x" * 300, "--csv"),
        ("compare", "x" * 300, "y" * 300),
        ("run", "x" * 300),
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_a_name_that_is_too_long_is_said(
    folder: Path, arguments: tuple[str, ...], command: typed.Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, _, told = command(*arguments)
    assert code == 2
    assert "File name too long" in told.replace("\n", " ") or "[tune]" in told


def test_of_two_runs_in_one_folder_the_second_is_refused(
    folder: Path, command: typed.Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with typed.started("run", "long.toml", "--out", "o", cwd=folder):
        assert until((folder / "o" / "record.json").exists)
        for option in ("--overwrite", "--resume"):
            code, _, told = command("run", "long.toml", "--out", "o", option)
            assert (code, "another fedsim is at work in o" in told) == (2, True), told
        assert read_record(folder / "o").status == "interrupted"
    with RunFolder(folder / "o").lock():  # the lock ended with its process
        assert (folder / "o" / "record.json").exists()


@pytest.mark.parametrize("wait", [0.0, *(pytest.param(own, marks=pytest.mark.slow) for own in (1.0, 4.0))])
def test_ctrl_c_in_a_sweep_ends_it_in_one_sentence(folder: Path, wait: float) -> None:
    (folder / "sweep.toml").write_text(LONG + "[sweep]\nseeds = [1, 2, 3]\n")
    with typed.started("sweep", "sweep.toml", "--jobs", "2", "--out", "o", cwd=folder) as process:
        assert until(lambda: len(list((folder / "o" / "logs").glob("worker-*"))) == 2)
        time.sleep(wait)
        process.signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.errors().strip() == "Interrupted. Finished runs are in o; the same command continues."
