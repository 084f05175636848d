"""A named pipe in place of a file of a third party is refused; reading it would block forever."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from fedsim.audit.record import AuditRecord
from fedsim.core.errors import FedsimError
from fedsim.data.image_folder import ImageFolderConfig, image_folder
from fedsim.data.text_file import TextFileConfig, text_file
from fedsim.experiment.sweep import heads
from fedsim.experiment.sweep.folder import SweepFolder
from fedsim.experiment.sweep.origin import finished_before
from fedsim.record.store import read_record, read_salt


def reads_images(folder: Path) -> object:
    return image_folder(ImageFolderConfig(path=folder))


def reads_texts(folder: Path) -> object:
    return text_file(TextFileConfig(path=folder))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("record.json", read_record),
        ("audit.json", partial(read_record, kind=AuditRecord)),
        ("sweep.json", lambda folder: SweepFolder(folder).plan()),
        ("salt", lambda folder: read_salt(folder / "salt")),
        ("a.txt", reads_texts),
        *((f"cat/{number}.png", reads_images) for number in (0, 4)),
    ],
)
def test_a_pipe_is_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / f"{number}.png")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(FedsimError, match=name):
        read(tmp_path)


def test_pipes_in_a_sweep_are_no_record_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "failures").mkdir()
    for name in ("record.json", "origin.json", "failures/0a.json"):
        os.mkfifo(tmp_path / name)
    assert heads.head(tmp_path / "record.json") is None
    assert not heads.is_whole(tmp_path / "record.json")
    assert finished_before(tmp_path, "origin") is None
    assert SweepFolder(tmp_path).failure("0a") is None
