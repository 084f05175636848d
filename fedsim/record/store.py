"""One folder a run. Every file is written beside its place and renamed into it: there is never half a file."""

from __future__ import annotations

import io
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedsim.core.errors import FedsimError
from fedsim.core.types import Tensors
from fedsim.record import RunRecord

RECORD = "record.json"
ARRAYS = "arrays.npz"
UPDATES = "updates"
_WEIGHTS = "weights"
_FIGURES = "figures"
_REST = ".fedsim-"  # begins the name of a file that is being written
_FILES = (
    RECORD,
    ARRAYS,
    "report.html",
    "scores.csv",
    "table.csv",
    "table-columns.csv",
    "table.parquet",
    "results.duckdb",
)
_FOLDERS = (_FIGURES, _WEIGHTS, UPDATES)
_OF_AN_ARM = re.compile(r"(?:wall|curves|exceedance|partition|participation|roc)-(\d+)-[a-z0-9-]+\.(?:png|csv)")
_OF_A_RUN = re.compile(r"(?:epsilon-\d+|accuracy|span-f1|spearman-correlation)\.(?:png|csv)")
_LARGE = 64 * 2**20  # bytes; weights hardly shrink, at 5 MB a second


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path

    def create(self, *, overwrite: bool) -> None:
        """Make an empty run folder. Of an earlier run it removes what that run's record accounts for, nothing else.

        Raises:
            FedsimError: it exists and `overwrite` is false, holds other things than a run, or cannot be written.
        """
        files = list(_files(self.path)) if self.path.is_dir() else []
        strangers = [name for name in files if not _may_be_ours(self.path, name)]
        if strangers:
            raise FedsimError(f"{self.path} holds '{strangers[0]}', which is not part of a run. Choose another --out.")
        kept = [name for name in files if not _is_rest(name)]
        if kept and not overwrite:
            raise FedsimError(
                f"{self.path} already holds a run. Choose another --out, add --overwrite to replace it, "
                "or --resume to go on with an interrupted one."
            )
        if kept:
            self._check_owner(kept)
        self._make()
        for name in sorted(files, key=lambda name: name == RECORD):  # while the record is there it says whose they are
            (self.path / name).unlink()
        for name in _FOLDERS:
            if (self.path / name).is_dir():
                (self.path / name).rmdir()

    def _check_owner(self, files: list[str]) -> None:
        """Refuse files that no record accounts for."""
        if RECORD not in files:
            raise FedsimError(
                f"{self.path} holds '{files[0]}', but no {RECORD} that says it is part of a run. fedsim removes "
                "nothing that it does not know: remove it yourself, or choose another --out."
            )
        record = read_record(self.path)
        foreign = [name for name in files if not _belongs(name, record)]
        if foreign:
            raise FedsimError(
                f"{self.path} holds '{foreign[0]}', which is not part of the run that its {RECORD} tells of. "
                "Move it elsewhere, or choose another --out."
            )

    def reopen(self) -> RunRecord | None:
        """Return the record of an earlier run in this folder, or None when there is none."""
        self._make()
        return read_record(self.path) if (self.path / RECORD).exists() else None

    def write_record(self, record: RunRecord) -> None:
        """Write `record.json`."""
        write_whole(self.path / RECORD, record.model_dump_json(indent=1).encode())

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Write `arrays.npz`."""
        write_whole(self.path / ARRAYS, npz(arrays))

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Return what `arrays.npz` holds, nothing when it does not exist."""
        path = self.path / ARRAYS
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def write_weights(self, arm: int, weights: Tensors) -> None:
        """Write the final weights of an arm as ``weights/arm-N.npz``, which `model.checkpoint` accepts."""
        folder = self.path / _WEIGHTS
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"arm-{arm}.npz", npz({name: tensor.numpy() for name, tensor in weights.items()}))

    def write_updates(self, arm: int, arrays: dict[str, np.ndarray]) -> str:
        """Write the attacked updates of an arm as ``updates/arm-N.npz`` and return that path within the folder."""
        folder = self.path / UPDATES
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"arm-{arm}.npz", npz(arrays))
        return f"{UPDATES}/arm-{arm}.npz"

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".fedsim-"):
                pass
        except OSError as error:
            raise FedsimError(f"cannot write to {self.path}: {error.strerror}. Choose another --out.") from error


def read_record(path: Path) -> RunRecord:
    """Return the record in a run folder.

    Raises:
        FedsimError: there is none, or it is not a record of this schema version.
    """
    try:
        return RunRecord.model_validate_json((path / RECORD).read_bytes())
    except OSError as error:
        raise FedsimError(f"{path} holds no {RECORD}: not a run folder.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise FedsimError(f"{path / RECORD} cannot be read: {place}: {first['msg']}") from error


def npz(arrays: dict[str, Any]) -> bytes:
    """Return arrays by name as the content of an ``.npz`` file, compressed unless that would take many seconds."""
    buffer = io.BytesIO()
    save = np.savez_compressed if sum(array.nbytes for array in arrays.values()) < _LARGE else np.savez
    save(buffer, **arrays)
    return buffer.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part, also after a crash."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".fedsim-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _files(folder: Path) -> Iterator[str]:
    """Yield what lies in a run folder and in its folders, by path within it."""
    for path in sorted(folder.iterdir()):
        if path.name not in _FOLDERS or path.is_symlink() or not path.is_dir():
            yield path.name
        else:
            yield from (f"{path.name}/{own.name}" for own in sorted(path.iterdir()))


def _is_rest(name: str) -> bool:
    return name.rpartition("/")[2].startswith(_REST)


def _may_be_ours(folder: Path, name: str) -> bool:
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return False
    return _is_rest(name) or name in _FILES or "/" in name


def _belongs(name: str, record: RunRecord) -> bool:
    """Tell whether a run with this record wrote a file of this name."""
    if name in _FILES:
        return True
    most = max(len(record.arms), math.prod(len(values) for values in record.scenario.get("arms", {}).values()))
    folder, _, own = name.partition("/")
    if folder != _FIGURES:
        return own in {f"arm-{number}.npz" for number in range(most)}
    number = _OF_AN_ARM.fullmatch(own)
    return _OF_A_RUN.fullmatch(own) is not None or (number is not None and 1 <= int(number[1]) <= most)
