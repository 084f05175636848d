"""The folder of a killed process is removed, whatever the folder holds; that of another process stays."""

import io
import os
from pathlib import Path

import pytest

from fedsim.processes import reaper
from fedsim.processes.reaper import remove_if_killed, remove_tree, serve


def test_the_folder_goes_where_the_input_ends_without_a_line(tmp_path: Path) -> None:
    for number, lines in enumerate((b"", b"do", b"done")):
        folder = tmp_path / f"run-{number}"
        (folder / "below").mkdir(parents=True)
        serve(io.BytesIO(lines), folder)
        assert not folder.exists()


def test_a_folder_of_a_process_that_is_well_stays(tmp_path: Path) -> None:
    serve(io.BytesIO(b"done\n"), tmp_path)
    assert tmp_path.exists()
    with pytest.raises(LookupError), remove_if_killed(tmp_path):
        raise LookupError
    assert tmp_path.exists()


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

    monkeypatch.setattr(reaper, "remove_tree", refusing)
    monkeypatch.setattr(reaper, "_PATIENCE", 0.0)
    serve(io.BytesIO(), tmp_path)
    assert f"cannot remove {tmp_path}: [Errno 1] not permitted. Remove it by hand." in capfd.readouterr().err
