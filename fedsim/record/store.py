"""One folder a run. Every file is written beside its place and renamed into it: there is never half a file."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedsim.core.errors import FedsimError
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.plain import printable_json
from fedsim.core.types import Tensors
from fedsim.record import ArmPart, RunRecord

RECORD = "record.json"
ARRAYS = "arrays.npz"
UPDATES = "updates"
SALT = "salt"
SALT_BYTES = 16
WEIGHTS = "weights"
_IN_WORK = "in-work"
_PARTS = f"{_IN_WORK}/parts.jsonl"
_REST = ".fedsim-"  # begins the name of a file that is being written
_LOCK = ".fedsim-lock"
_MANIFEST = ".fedsim-files"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SCHEMA = re.compile(rb'\s*\{\s*"schema_version":\s*(\d{1,9})')
_LARGE = 64 * 2**20  # bytes; weights hardly shrink, at 5 MB a second


class RunFolder:
    """The folder of one run. Its manifest names every file that fedsim wrote there, before the file is written."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched."""
        self.path = path

    def create(self, *, overwrite: bool) -> None:
        """Make an empty run folder. Of an earlier run it removes what the manifest names, nothing else.

        Raises:
            FedsimError: it exists and `overwrite` is false, holds other things than a run, or cannot be written.
        """
        with explain(self.path):
            files = list(_files(self.path)) if self.path.is_dir() else []
            ours = self._manifest()
        for name in files:
            if name not in ours and not _is_rest(self.path, name):
                raise FedsimError(
                    f"{self.path} holds '{name}', which no run has written. fedsim removes nothing that it does not "
                    "know: move it elsewhere, or choose another --out."
                )
        if RECORD in files and not overwrite:
            raise FedsimError(
                f"{self.path} already holds a run. Choose another --out, add --overwrite to replace it, "
                "or --resume to keep the complete arms of an interrupted one."
            )
        self._make()
        with explain(self.path):
            for name in sorted(files, key=lambda name: name == _MANIFEST):  # until then it says whose the others are
                (self.path / name).unlink()
            for folder in {name.partition("/")[0] for name in files if "/" in name}:
                (self.path / folder).rmdir()

    def _manifest(self) -> frozenset[str]:
        """Return the names of all files that are ours, the manifest's too."""
        path = self.path / _MANIFEST
        if path.is_symlink() or not path.is_file():
            return frozenset()
        return frozenset((_MANIFEST, *path.read_text(encoding="utf-8", errors="replace").splitlines()))

    def write(self, name: str, content: bytes, *, mode: int = 0o666) -> None:
        """Write a file whole, and note before that it is ours.

        Args:
            name: path within the folder, through one folder at most.
            content: of the file.
            mode: who may read and write it, less the umask.

        Raises:
            FedsimError: it cannot be written.
        """
        self.note(name)
        write_whole(self.path / name, content, mode=mode)

    def note(self, name: str) -> None:
        """Note that a file is ours, and make its folder."""
        make_folder((self.path / name).parent)
        if name not in self._manifest():
            _append(self.path / _MANIFEST, name.encode())

    def reopen(self) -> RunRecord | None:
        """Return the record of an earlier run in this folder, or None when there is none."""
        self._make()
        if not (self.path / RECORD).exists():
            return None
        record = read_record(self.path)
        for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
            remove_rests(folder)
        return record

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from working in this folder at the same time; it is made if need be, and goes if it stays empty.

        Raises:
            FedsimError: somebody works in it, or it cannot be written.
        """
        is_new = not self.path.exists()
        self._make()
        try:
            with locked(self.path, "another fedsim"):
                yield
        finally:
            if is_new:
                with suppress(OSError):  # it is not empty: something was found
                    self.path.rmdir()

    def write_record(self, record: RunRecord) -> None:
        """Write `record.json`, which then holds what was appended to it as well."""
        self.write(RECORD, record.model_dump_json(indent=1).encode())
        self._forget_parts()

    def append(self, part: ArmPart, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what one attack or question found to the last arm of the record, on disk at once."""
        if arrays:
            count = sum(1 for _ in self._parts_of_arrays())
            self.write(f"{_IN_WORK}/{count:04}.npz", npz(dict(arrays)))
        self.note(_PARTS)
        _append(self.path / _PARTS, part.model_dump_json().encode())

    def _parts_of_arrays(self) -> Iterator[Path]:
        yield from sorted((self.path / _IN_WORK).glob("*.npz"))

    def _forget_parts(self) -> None:
        """Remove what was appended."""
        folder = self.path / _IN_WORK
        if folder.is_symlink() or not folder.is_dir():
            return
        with explain(folder):
            for path in (self.path / _PARTS, *self._parts_of_arrays()):
                path.unlink(missing_ok=True)
            remove_rests(folder)
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()

    def write_salt(self, salt: bytes) -> None:
        """Write the secret salt of what attackers draw from, for its owner alone."""
        self.write(SALT, f"{salt.hex()}\n".encode(), mode=0o600)

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Write pictures and other arrays to `arrays.npz`."""
        self.write(ARRAYS, npz(arrays))

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Return what `arrays.npz` holds, and what was appended."""
        arrays: dict[str, np.ndarray] = {}
        for path in (self.path / ARRAYS, *self._parts_of_arrays()):
            if path.exists():
                with np.load(path, allow_pickle=False) as stored:
                    arrays.update({name: stored[name] for name in stored.files})
        return arrays

    def write_weights(self, arm: int, weights: Tensors) -> None:
        """Write the final weights of an arm as ``weights/arm-N.npz``, which `model.checkpoint` accepts."""
        self.write(f"{WEIGHTS}/arm-{arm}.npz", npz({name: tensor.numpy() for name, tensor in weights.items()}))

    def write_updates(self, arm: int, arrays: dict[str, np.ndarray]) -> str:
        """Write the attacked updates of an arm as ``updates/arm-N.npz`` and return that path within the folder."""
        name = f"{UPDATES}/arm-{arm}.npz"
        self.write(name, npz(arrays))
        return name

    def _make(self) -> None:
        check_writable(make_folder(self.path))


def read_record(path: Path) -> RunRecord:
    """Return the record in a run folder.

    Raises:
        FedsimError: there is none, it is broken, or has another schema.
    """
    try:
        content = (path / RECORD).read_bytes()
        check_schema(path / RECORD, content)
        record = RunRecord.model_validate_json(printable_json(content))
        for part in _parts(path):
            record = record.with_part(part)
    except OSError as error:
        missing = f"there is no folder {path}" if not path.exists() else f"{path} holds no {RECORD}: not a run folder"
        raise FedsimError(f"{missing}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise FedsimError(f"{path / RECORD} cannot be read: {place}: {first['msg']}") from error
    undeclared = sorted(set(record.figures) - {metric.name for metric in record.metrics})
    if undeclared:
        raise FedsimError(
            f"{path / RECORD} cannot be read: metrics: it has figures of '{undeclared[0]}', which it does not declare. "
            "Somebody has changed the file: repeat the run with --overwrite."
        )
    return record


def _parts(path: Path) -> Iterator[ArmPart]:
    """Yield what was appended to the record of a run; a last line that a kill cut off is none."""
    if not (path / _PARTS).is_file():
        return
    *whole, _cut = (path / _PARTS).read_bytes().split(b"\n")
    for line in whole:
        yield ArmPart.model_validate_json(printable_json(line))


def read_salt(path: Path) -> bytes:
    """Return the salt in a file.

    Raises:
        FedsimError: it cannot be read, or holds something else.
    """
    try:
        salt = bytes.fromhex(path.read_text())
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
    """Check that a record's content has the schema that this fedsim reads, or says nothing of one.

    Raises:
        FedsimError: it has another.
    """
    match = _SCHEMA.match(content)
    if match is not None and int(match[1]) != SCHEMA_VERSION:
        raise FedsimError(
            f"{record} has schema version {int(match[1])}, expected {SCHEMA_VERSION}: another version of fedsim made "
            "it. Run it again, or read it with that version."
        )


def npz(arrays: dict[str, Any]) -> bytes:
    """Return arrays by name as the content of an ``.npz`` file, compressed unless that would take many seconds."""
    buffer = io.BytesIO()
    save = np.savez_compressed if sum(array.nbytes for array in arrays.values()) < _LARGE else np.savez
    save(buffer, **arrays)
    return buffer.getvalue()


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part, also after a crash.

    Args:
        path: of the file.
        content: of the file.
        mode: who may read and write it, less the umask.

    Raises:
        FedsimError: it cannot be written, for lack of room or of the right to.
    """
    temporary = path.parent / f"{_REST}{secrets.token_hex(8)}"
    with explain(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, on disk when this returns; one that a kill cut off before it is ended."""
    with explain(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "a+b") as file:
            is_cut = file.tell() and os.pread(handle, 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(is_cut) + line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, unless it is there, and return it.

    Raises:
        FedsimError: it cannot be made.
    """
    with explain(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_writable(folder: Path) -> None:
    """Refuse a folder in which no file can be made.

    Raises:
        FedsimError: the same.
    """
    probe = folder / f"{_REST}{secrets.token_hex(8)}"
    with explain(folder):
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()


def remove_rests(folder: Path) -> None:
    """Remove what a write that was killed left in a folder; nobody else may be writing there."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with explain(folder):
        for path in folder.glob(f"{_REST}*"):
            if path.name not in (_LOCK, _MANIFEST):
                path.unlink()


@contextmanager
def explain(path: Path) -> Iterator[None]:
    """Turn what the system says about a file or folder into a sentence with advice.

    Raises:
        FedsimError: the system refused; its cause is the error.
    """
    try:
        yield
    except OSError as error:
        advice = "Make room, and run the same command again" if is_full(error) else "Choose another place"
        raise FedsimError(f"cannot write to {path}: {error.strerror or error}. {advice}.") from error


def is_full(error: BaseException | None) -> bool:
    """Tell whether this error says that there is no room left."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """Keep others from working in a folder at the same time. The lock ends with the process, however it ends.

    Raises:
        FedsimError: somebody works in it, who is called `who`, or it cannot be written.
    """
    path = folder / _LOCK
    while True:
        with explain(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if not _holds(handle):
                os.close(handle)
                raise FedsimError(f"{who} is at work in {folder}. Wait for it, or choose another --out.")
        if _is(path, handle):
            break
        os.close(handle)  # whoever held it removed it after it was opened here
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _holds(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _files(folder: Path) -> Iterator[str]:
    """Yield what lies in a run folder and in its folders, by path within it."""
    for path in sorted(folder.iterdir()):
        if path.name == _LOCK:
            continue
        if path.is_symlink() or not path.is_dir():
            yield path.name
        else:
            yield from (f"{path.name}/{inner.name}" for inner in sorted(path.iterdir()))


def _is_rest(folder: Path, name: str) -> bool:
    """Tell whether a write that was killed has left this file."""
    path = folder / name
    return path.name.startswith(_REST) and path.is_file() and not path.is_symlink()
