"""Files that are whole or not there, and folders that one process has: written beside their place, renamed into it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from fedsim.core.errors import FedsimError

LOCK = ".fedsim-lock"
MANIFEST = ".fedsim-files"
_REST = ".fedsim-"  # begins the name of a file that is being written
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


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


def append(path: Path, line: bytes) -> None:
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


def make_inner_folder(root: Path, name: str) -> Path:
    """Make a folder directly inside `root` unless it is there, and return it.

    Raises:
        FedsimError: it cannot be made, or a symbolic link has this name: files written there would land elsewhere.
    """
    path = root / name
    make_folder(root)
    refuse_link(path)
    with explain(path):
        path.mkdir(exist_ok=True)
    return path


def refuse_link(path: Path) -> None:
    """Check that a path into which files are written is no symbolic link.

    Raises:
        FedsimError: it is one.
    """
    if path.is_symlink():
        raise FedsimError(
            f"{path} is a symbolic link, and files written there would land in {os.readlink(path)}. Remove the link, "
            "or choose another --out."
        )


def open_log(path: Path) -> TextIO:
    """Return a file opened for lines at its end; it is made if it is missing.

    Raises:
        FedsimError: it cannot be written, or is a symbolic link.
    """
    refuse_link(path)
    with explain(path):
        return path.open("a")


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
            if path.name not in (LOCK, MANIFEST):
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
    path = folder / LOCK
    while True:
        with explain(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
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


def remove_stale_lock(folder: Path) -> None:
    """Remove the lock that a killed process left in a folder; a lock in use, and one that cannot be removed, stay."""
    path = folder / LOCK
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if _holds(handle) and _is(path, handle):
                path.unlink()
        finally:
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


def is_rest(path: Path) -> bool:
    """Tell whether a write that was killed has left this file."""
    return path.name.startswith(_REST) and path.is_file() and not path.is_symlink()
