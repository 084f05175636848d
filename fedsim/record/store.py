"""The run folder: writing and reading of its files."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from fedsim.core.errors import FedsimError
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.nets.tensor_files import read_arrays
from fedsim.core.regular_files import read_regular
from fedsim.core.result_files import CONTENTS, RECORD
from fedsim.core.sanitize import printable_json
from fedsim.core.types import Tensors
from fedsim.record import ArmUpdate, Record, RunRecord
from fedsim.record.atomic_files import (
    LOCK,
    MANIFEST,
    append_inside,
    check_writable,
    io_advice,
    is_temporary,
    lock_folder,
    make_folder,
    make_inner_folder,
    remove_inside,
    remove_temporary_files,
    write_inside,
)

ARRAYS = "arrays.npz"
UPDATES = "updates"
SALT = "salt"
SALT_BYTES = 16
WEIGHTS = "weights"
_IN_WORK = "in-work"
_PARTS = f"{_IN_WORK}/parts.jsonl"
_SCHEMA = re.compile(rb'\s*\{\s*"schema_version":\s*(\d{1,9})')
_ENTERED = re.compile(r"([0-9a-f]{64}) (.+)")  # an entry of the manifest whose file was not yet written
_LARGE = 64 * 2**20  # bytes; above, no compression: a second per 5 MB, and weights hardly shrink


class RunFolder:
    """The folder of a run, sweep, audit or release check, with a manifest of its files.

    A file is entered with its digest before it is written and by its name alone afterwards. After a kill between the
    two, only a file with that digest is a file of fedsim.
    """

    def __init__(self, path: Path, record: str = RECORD) -> None:
        """Set the path, without access to the disk.

        Args:
            path: path of the folder.
            record: name of the file that identifies the folder: `file` of a kind of record, or `SWEEP`.
        """
        self.path = path
        self._record = record

    def create(self, *, overwrite: bool) -> None:
        """Create the folder, or empty it: files in the manifest and leftovers of killed writes are removed.

        Raises:
            FedsimError: the folder holds a record and `overwrite` is false, holds a record of another kind or a file
                outside the manifest, or cannot be written.
        """
        with io_advice(self.path):
            files = list(_files(self.path)) if self.path.is_dir() else []
            ours = self._owned_files()
        for name in CONTENTS.keys() - {self._record}:
            if name in files and name in ours:
                raise FedsimError(f"{self.path} holds {CONTENTS[name]}. Choose another --out.")
        for name in files:
            if name not in ours and not is_temporary(self.path / name):
                raise self._foreign(name)
        if self._record in files and not overwrite:
            raise FedsimError(
                f"{self.path} already holds a run. Choose another --out, add --overwrite to "
                "replace it, or --resume to keep the complete arms of an interrupted run."
            )
        self._make()
        with io_advice(self.path):
            for name in sorted(files, key=lambda name: name == MANIFEST):  # the manifest last: it identifies the others
                remove_inside(self.path, name)
            for folder in {name.partition("/")[0] for name in files if "/" in name}:
                (self.path / folder).rmdir()

    def _manifest(self) -> frozenset[str]:
        """Return the lines of the manifest, without duplicates."""
        path = self.path / MANIFEST
        if path.is_symlink() or not path.is_file():
            return frozenset()
        return frozenset((MANIFEST, *path.read_text(encoding="utf-8", errors="replace").splitlines()))

    def _owned_files(self) -> frozenset[str]:
        """Return the names of all files of fedsim in the folder, including the manifest."""
        lines = self._manifest()
        entered = [match.groups() for match in map(_ENTERED.fullmatch, lines) if match]
        return lines | {name for digest, name in entered if name not in lines and _digest(self.path / name) == digest}

    def write(self, name: str, content: bytes, *, mode: int = 0o666) -> None:
        """Write a file atomically, and add its name to the manifest.

        Args:
            name: path within the folder, at most one folder deep.
            content: content of the file.
            mode: permission bits, before the umask.

        Raises:
            FedsimError: the file cannot be written, its folder is a symbolic link, or a file of that name exists that
                is not in the manifest.
        """
        self._make_parent(name)
        is_new = name not in self._manifest()
        if is_new:
            if os.path.lexists(self.path / name) and name not in self._owned_files():
                raise self._foreign(name)
            append_inside(self.path, MANIFEST, f"{sha256(content).hexdigest()} {name}".encode())
        write_inside(self.path, name, content, mode=mode)
        if is_new:
            append_inside(self.path, MANIFEST, name.encode())

    def reserve(self, name: str) -> None:
        """Create an empty file, unless it exists, that another writer replaces or appends to; see `write`."""
        self._make_parent(name)
        if name not in self._manifest() or not (self.path / name).exists():
            self.write(name, b"")

    def _make_parent(self, name: str) -> None:
        folder, slash, _ = name.rpartition("/")
        if slash:
            make_inner_folder(self.path, folder)
        else:
            make_folder(self.path)

    def _foreign(self, name: str) -> FedsimError:
        return FedsimError(
            f"{self.path} holds '{name}', which is not a file of fedsim. fedsim replaces only its own files: move it "
            "elsewhere, or choose another --out."
        )

    def reopen(self) -> RunRecord | None:
        """Create the folder if missing, and return its earlier record, or None."""
        self._make()
        if not (self.path / RECORD).exists():
            return None
        record = read_record(self.path)
        self.remove_temporary_files()
        return record

    def remove_temporary_files(self) -> None:
        """Remove the temporary files of killed writes from the folder and its subfolders."""
        for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
            remove_temporary_files(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other processes. A missing folder is created, and removed again if it stays empty.

        Raises:
            FedsimError: another process holds the lock, or the folder cannot be written.
        """
        is_new = not self.path.exists()
        self._make()
        try:
            with lock_folder(self.path, "another fedsim"):
                yield
        finally:
            if is_new:
                with suppress(OSError):  # not empty: a finding was written
                    self.path.rmdir()

    @contextmanager
    def renew(self) -> Iterator[None]:
        """Lock the folder for the block, and remove the files of an earlier result.

        Raises:
            FedsimError: another process holds the lock, the folder holds files that fedsim did not write there or a
                record of another kind, or it cannot be written.
        """
        with self.lock():
            self.create(overwrite=True)
            yield

    def write_record(self, record: Record[Any, Any]) -> None:
        """Write the record with all appended parts, and remove the parts."""
        self.write(record.file, record.model_dump_json(indent=1).encode())
        self._forget_parts()

    def append(self, part: ArmUpdate, arrays: Mapping[str, np.ndarray]) -> None:
        """Append findings of an attack or question to the record's last arm, synced to disk."""
        if arrays:
            count = sum(1 for _ in self._parts_of_arrays())
            self.write(f"{_IN_WORK}/{count:04}.npz", npz(dict(arrays)))
        self.reserve(_PARTS)
        append_inside(self.path, _PARTS, part.model_dump_json().encode())

    def _parts_of_arrays(self) -> Iterator[Path]:
        yield from sorted((self.path / _IN_WORK).glob("*.npz"))

    def _forget_parts(self) -> None:
        folder = self.path / _IN_WORK
        if folder.is_symlink() or not folder.is_dir():
            return
        with io_advice(folder):
            names = [_PARTS, *(f"{_IN_WORK}/{path.name}" for path in self._parts_of_arrays())]
            for name in (name for name in names if (self.path / name).exists()):
                remove_inside(self.path, name)
            remove_temporary_files(folder)
            with suppress(OSError):  # the folder contains a foreign file
                folder.rmdir()

    def write_salt(self, salt: bytes) -> None:
        """Write the secret salt of the attacks' seeds, readable by its owner only."""
        self.write(SALT, f"{salt.hex()}\n".encode(), mode=0o600)

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Write images and other arrays to `arrays.npz`."""
        self.write(ARRAYS, npz(arrays))

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of `arrays.npz` and of appended parts; empty without files.

        Raises:
            FedsimError: a file is truncated, or contains something other than arrays.
        """
        arrays: dict[str, np.ndarray] = {}
        for path in (self.path / ARRAYS, *self._parts_of_arrays()):
            if path.exists():
                arrays |= read_arrays(path)
        return arrays

    def write_weights(self, arm: int, weights: Tensors) -> None:
        """Write the final weights of an arm as ``weights/arm-N.npz``, a valid `model.checkpoint`."""
        self.write(f"{WEIGHTS}/arm-{arm}.npz", npz({name: tensor.numpy() for name, tensor in weights.items()}))

    def write_updates(self, arm: int, arrays: dict[str, np.ndarray]) -> str:
        """Write the attacked updates of an arm as ``updates/arm-N.npz``, and return this relative path."""
        name = f"{UPDATES}/arm-{arm}.npz"
        self.write(name, npz(arrays))
        return name

    def _make(self) -> None:
        check_writable(make_folder(self.path))


RecordT = TypeVar("RecordT", bound=Record[Any, Any])


def read_record(folder: Path, kind: type[RecordT] = RunRecord) -> RecordT:
    """Return the record of a kind in a folder, with the parts appended to it.

    Raises:
        FedsimError: the record is missing or broken, or has another schema version.
    """
    path = folder / kind.file
    try:
        content = read_regular(path)
        check_schema(path, content)
        record = kind.model_validate_json(printable_json(content))
        for part in _parts(folder):
            record = record.with_part(part)
    except OSError as error:
        raise FedsimError(f"{_unreadable(path, error)}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise FedsimError(f"{path} cannot be read: {place}: {first['msg']}") from error
    undeclared = sorted(set(record.figures) - {metric.name for metric in record.metrics})
    if undeclared:
        raise FedsimError(
            f"{path} cannot be read: metrics: it has values of '{undeclared[0]}', which it does not declare. The file "
            "was changed: make it again."
        )
    return record


def _unreadable(path: Path, error: OSError) -> str:
    if not path.parent.exists():
        return f"there is no folder {path.parent}"
    if path.exists():
        return f"{path} cannot be read: {error.strerror}"
    return f"{path.parent} holds no {path.name}: not the folder of {CONTENTS[path.name]}"


def _parts(path: Path) -> Iterator[ArmUpdate]:
    """Yield the parts appended to a record, without a last line truncated by a kill."""
    if not (path / _PARTS).is_file():
        return
    *whole, _cut = read_regular(path / _PARTS).split(b"\n")
    for line in whole:
        yield ArmUpdate.model_validate_json(printable_json(line))


def read_salt(path: Path) -> bytes:
    """Return the salt in a file.

    Raises:
        FedsimError: the file cannot be read, or contains no salt.
    """
    try:
        salt = bytes.fromhex(read_regular(path).decode())
    except OSError as error:
        raise FedsimError(f"cannot read the salt {path}: {error.strerror}.") from error
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise FedsimError(
            f"{path} holds no salt, expected {2 * SALT_BYTES} hexadecimal digits. `fedsim run --isolate` leaves its "
            f"salt in the run's folder as '{SALT}'."
        )
    return salt


def check_schema(record: Path, content: bytes) -> None:
    """Check that a record has the supported schema version, or states none.

    Raises:
        FedsimError: the record has another schema version.
    """
    match = _SCHEMA.match(content)
    if match is not None and int(match[1]) != SCHEMA_VERSION:
        raise FedsimError(
            f"{record} has schema version {int(match[1])}, expected {SCHEMA_VERSION}: another version of fedsim made "
            "it. Run it again, or read it with that version."
        )


def _digest(path: Path) -> str:
    """Return the SHA-256 of a regular file, or an empty string without one."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def npz(arrays: dict[str, Any]) -> bytes:
    """Return arrays as the content of an ``.npz`` file, compressed unless they are large."""
    buffer = io.BytesIO()
    save = np.savez_compressed if sum(array.nbytes for array in arrays.values()) < _LARGE else np.savez
    save(buffer, **arrays)
    return buffer.getvalue()


def _files(folder: Path) -> Iterator[str]:
    """Yield the files in a run folder and its subfolders, as relative paths."""
    for path in sorted(folder.iterdir()):
        if path.name == LOCK:
            continue
        if path.is_symlink() or not path.is_dir():
            yield path.name
        else:
            yield from (f"{path.name}/{inner.name}" for inner in sorted(path.iterdir()))
