"""One folder a run. Every file is written beside its place and renamed into it: there is never half a file."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
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
_OURS = (
    RECORD,
    ARRAYS,
    "report.html",
    "scores.csv",
    "figures",
    "weights",
    UPDATES,
    "table.csv",
    "table-columns.csv",
    "table.parquet",
    "results.duckdb",
)
_LARGE = 64 * 2**20  # bytes; weights hardly shrink, at 5 MB a second


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path

    def create(self, *, overwrite: bool) -> None:
        """Make an empty run folder.

        Raises:
            FedsimError: it exists and `overwrite` is false, holds other things than a run, or cannot be written.
        """
        occupants = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        strangers = [name for name in occupants if name not in _OURS and not name.startswith(".fedsim-")]
        if strangers:
            raise FedsimError(f"{self.path} holds '{strangers[0]}', which is not part of a run. Choose another --out.")
        if occupants and not overwrite:
            raise FedsimError(
                f"{self.path} already holds a run. Choose another --out, add --overwrite to replace it, "
                "or --resume to go on with an interrupted one."
            )
        self._make()
        for name in occupants:
            _remove(self.path / name)

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
        folder = self.path / "weights"
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
