import io
import os
from pathlib import Path

import numpy as np
import pytest

from fedsim.core.errors import FedsimError
from fedsim.record import store
from fedsim.record.store import RunFolder, read_record


def test_an_existing_run_is_kept_unless_overwritten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    folder.write_arrays({"a": np.ones(2)})
    with pytest.raises(FedsimError, match="--overwrite"):
        RunFolder(tmp_path / "run").create(overwrite=False)
    assert list(folder.read_arrays()) == ["a"]
    folder.create(overwrite=True)
    assert folder.read_arrays() == {}


def test_a_folder_with_other_things_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FedsimError, match="thesis.tex"):
        RunFolder(tmp_path).create(overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="cannot write to"):
        RunFolder(tmp_path / "file" / "run").create(overwrite=False)


def test_a_failing_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    folder.write_arrays({"a": np.ones(2)})

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        folder.write_arrays({"b": np.ones(3)})
    assert list(folder.read_arrays()) == ["a"]
    assert [path.name for path in folder.path.iterdir()] == ["arrays.npz"]


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99}'])
def test_a_corrupt_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(FedsimError, match=r"record.json cannot be read"):
        read_record(tmp_path)
    with pytest.raises(FedsimError, match="not a run folder"):
        read_record(tmp_path / "nowhere")


def test_large_arrays_are_not_compressed_and_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"zeros": np.zeros(1000), "counted": np.arange(5)}
    small = store.npz(arrays)
    monkeypatch.setattr(store, "_LARGE", 100)
    large = store.npz(arrays)
    assert len(small) < 2000 < arrays["zeros"].nbytes < len(large)
    with np.load(io.BytesIO(large), allow_pickle=False) as read:
        assert all(np.array_equal(read[name], own) for name, own in arrays.items())
