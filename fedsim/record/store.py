"""One folder a run. Every file is written beside its place and renamed into it: there is never half a file."""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.plain import printable_json, slug
from fedsim.core.types import Tensors
from fedsim.record import RunRecord

RECORD = "record.json"
ARRAYS = "arrays.npz"
UPDATES = "updates"
SALT = "salt"
SALT_BYTES = 16
_WEIGHTS = "weights"
_FIGURES = "figures"
_REST = ".fedsim-"  # begins the name of a file that is being written
_LOCK = ".fedsim-lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_FILES = (
    RECORD,
    ARRAYS,
    SALT,
    "report.html",
    "scores.csv",
    "findings.csv",
    "findings-columns.csv",
    "table.csv",
    "table-columns.csv",
    "table.parquet",
    "results.duckdb",
)
_FOLDERS = (_FIGURES, _WEIGHTS, UPDATES)
_OF_AN_ARM = re.compile(r"(?:wall|curves|exceedance|partition|participation|roc)-(\d+)-[a-z0-9-]+\.(?:png|csv)")
_OF_A_RUN = re.compile(r"epsilon-\d+\.(?:png|csv)")
_SCHEMA = re.compile(rb'\s*\{\s*"schema_version":\s*(\d{1,9})')
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
        with explain(self.path):
            files = list(_files(self.path)) if self.path.is_dir() else []
        strangers = [name for name in files if not _may_be_ours(self.path, name)]
        if strangers:
            raise FedsimError(f"{self.path} holds '{strangers[0]}', which is not part of a run. Choose another --out.")
        kept = [name for name in files if not _is_rest(name)]
        if kept == [SALT]:
            read_salt(self.path / SALT)
            kept = []  # of a run that was killed before it had a record
        if kept and not overwrite:
            raise FedsimError(
                f"{self.path} already holds a run. Choose another --out, add --overwrite to replace it, "
                "or --resume to go on with an interrupted one."
            )
        if kept:
            self._check_owner(kept)
        self._make()
        with explain(self.path):
            for name in sorted(files, key=lambda name: name == RECORD):  # until then it says whose the others are
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
        if not (self.path / RECORD).exists():
            return None
        record = read_record(self.path)
        for folder in (self.path, *(self.path / name for name in _FOLDERS)):
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
        """Write `record.json`."""
        write_whole(self.path / RECORD, record.model_dump_json(indent=1).encode())

    def write_salt(self, salt: bytes) -> None:
        """Write the secret salt of what attackers draw from, for its owner alone."""
        write_whole(self.path / SALT, f"{salt.hex()}\n".encode(), mode=0o600)

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Write pictures and other arrays to `arrays.npz`."""
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
        folder = make_folder(self.path / _WEIGHTS)
        write_whole(folder / f"arm-{arm}.npz", npz({name: tensor.numpy() for name, tensor in weights.items()}))

    def write_updates(self, arm: int, arrays: dict[str, np.ndarray]) -> str:
        """Write the attacked updates of an arm as ``updates/arm-N.npz`` and return that path within the folder."""
        folder = make_folder(self.path / UPDATES)
        write_whole(folder / f"arm-{arm}.npz", npz(arrays))
        return f"{UPDATES}/arm-{arm}.npz"

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
    except OSError as error:
        raise FedsimError(f"{path} holds no {RECORD}: not a run folder.") from error
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
    found = _SCHEMA.match(content)
    if found is not None and int(found[1]) != SCHEMA_VERSION:
        raise FedsimError(
            f"{record} has schema version {int(found[1])}, expected {SCHEMA_VERSION}: another version of fedsim made "
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
            if path.name != _LOCK:
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
    metrics = (*registry.every_metric().values(), *record.metrics)
    measured = {f"{slug(metric.title)}.{kind}" for metric in metrics for kind in ("png", "csv")}
    if own in measured or _OF_A_RUN.fullmatch(own):
        return True
    number = _OF_AN_ARM.fullmatch(own)
    return number is not None and 1 <= int(number[1]) <= most
