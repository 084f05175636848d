"""Files are whole or not there, also after a kill, and of two processes that want a folder one gets it."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.record import atomic_files


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        atomic_files.write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_lock_that_was_removed_while_it_was_waited_for_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the holder ends and a third one comes: two must not hold a lock."""
    flock, opened = fcntl.flock, []
    lock = tmp_path / atomic_files.LOCK

    def late(handle: int, how: int) -> None:
        if not opened:
            lock.unlink()
        opened.append(handle)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with atomic_files.lock_folder(tmp_path, "one"):
        monkeypatch.undo()
        assert len(opened) == 2
        with pytest.raises(FedsimError, match="another is at work"), atomic_files.lock_folder(tmp_path, "another"):
            pass


def test_a_line_follows_one_that_a_kill_cut_off_on_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"whole\ncut")
    atomic_files.append_inside(tmp_path, "lines", b"next")
    assert (tmp_path / "lines").read_bytes() == b"whole\ncut\nnext\n"


def test_rests_of_killed_writes_go_and_lock_and_manifest_stay(tmp_path: Path) -> None:
    for name in (atomic_files.LOCK, atomic_files.MANIFEST, ".fedsim-0123", "other"):
        (tmp_path / name).touch()
    assert atomic_files.is_temporary(tmp_path / ".fedsim-0123")
    assert not atomic_files.is_temporary(tmp_path / "other")
    atomic_files.remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [atomic_files.MANIFEST, atomic_files.LOCK, "other"]


@pytest.mark.parametrize("is_dangling", [True, False])
def test_locks_and_logs_open_no_link(tmp_path: Path, is_dangling: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.write_text("precious")
    (folder := tmp_path / "folder").mkdir()
    for name in (atomic_files.LOCK, "log"):
        (folder / name).symlink_to(elsewhere)
    with pytest.raises(FedsimError, match=atomic_files.LOCK), atomic_files.lock_folder(folder, "one"):
        pass
    with pytest.raises(FedsimError, match=f"log is a symbolic link.*{elsewhere}"):
        atomic_files.open_log(folder / "log")
    assert not elsewhere.exists() if is_dangling else elsewhere.read_text() == "precious"


def test_a_log_goes_on_at_its_end(tmp_path: Path) -> None:
    for line in ("first\n", "second\n"):
        with atomic_files.open_log(tmp_path / "log") as log:
            log.write(line)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"
