"""A guardian ends what it was told of, and removes the folder, unless it is dismissed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.processes import reaper as guardian
from fedsim.processes.reaper import guard, remove_tree, serve


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)


def test_groups_are_ended_and_the_folder_goes_where_the_lines_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "below").mkdir(parents=True)
    process = sleeper()
    gone = sleeper()
    gone.kill()
    gone.wait()
    serve([f"{gone.pid}\n", f"{process.pid}\n"], folder)
    assert process.wait(10) == -signal.SIGKILL
    assert not folder.exists()


def test_a_guardian_that_is_dismissed_touches_nothing(tmp_path: Path) -> None:
    process = sleeper()
    try:
        serve([f"{process.pid}\n", "done\n"], tmp_path)
        assert process.poll() is None
        with guard(tmp_path) as guardian:
            guardian.watch(process.pid)
        assert process.poll() is None
        assert tmp_path.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def nested(folder: Path, levels: int) -> None:
    """Make folders within each other, too many for a path and for a recursion."""
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        os.close(os.open(f"file {level}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        for name in ("beside", "below"):
            os.mkdir(name, dir_fd=here)
        below = os.open("below", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_folders_within_each_other_are_removed_however_many(tmp_path: Path) -> None:
    nested(tmp_path / "run", 4000)
    remove_tree(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_run_is_removed_however_deep(tmp_path: Path) -> None:
    nested(tmp_path / "run", 4000)
    serve([], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_links_are_removed_and_their_targets_stay(tmp_path: Path) -> None:
    kept, run = tmp_path / "kept", tmp_path / "run"
    (kept / "below").mkdir(parents=True)
    (kept / "file").write_text("kept")
    mode = kept.stat().st_mode
    (run / "folder").mkdir(parents=True)
    for place in (run, run / "folder"):
        (place / "link").symlink_to(kept)
        (place / "hard").hardlink_to(kept / "file")
    remove_tree(run)
    run.symlink_to(kept)
    remove_tree(run)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "file", "kept"]
    assert (kept / "file").read_text() == "kept"
    assert kept.stat().st_mode == mode


def test_folders_that_nobody_may_read_or_write_are_removed_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "closed" / "below" / "further").mkdir(parents=True)
    (run / "closed" / "file").touch()
    for folder in (run / "closed" / "below", run / "closed", run):
        folder.chmod(0)
    remove_tree(run)
    assert not run.exists()


def test_a_folder_that_stays_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refusing(_folder: Path) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(guardian, "remove_tree", refusing)
    monkeypatch.setattr(guardian, "_PATIENCE", 0.0)
    serve([], tmp_path)
    assert f"cannot remove {tmp_path}: [Errno 1] not permitted. Remove it by hand." in capfd.readouterr().err
