"""Atomic file writes (temporary file, then rename) and folder locks."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from fedsim.core.errors import FedsimError

LOCK = ".fedsim-lock"
MANIFEST = ".fedsim-files"
_REST = ".fedsim-"  # prefix of temporary files
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file atomically: readers see the old file or the new file, even after a crash.

    Args:
        path: path of the file.
        content: content of the file.
        mode: permission bits, before the umask.

    Raises:
        FedsimError: the file cannot be written: no space or no permission.
    """
    write_inside(path.parent, path.name, content, mode=mode)


def write_inside(root: Path, name: str, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file atomically below a folder, as `write_atomic`.

    A symbolic link that replaces the folder inside `root`, even during the write, leads no file elsewhere.

    Args:
        root: the folder.
        name: path inside it, at most one folder deep.
        content: content of the file.
        mode: permission bits, before the umask.

    Raises:
        FedsimError: the file cannot be written, or its folder is a symbolic link.
    """
    temporary = f"{_REST}{secrets.token_hex(8)}"
    with io_advice(root / name), _opened_parent(root, name) as (folder, file_name):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, file_name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise


def append_inside(root: Path, name: str, line: bytes) -> None:
    """Append a line to a file below a folder, and sync it to disk; see `write_inside`.

    A line truncated by an earlier kill is terminated first.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with io_advice(root / name), _opened_parent(root, name) as (folder, file_name):
        handle = os.open(file_name, flags, 0o666, dir_fd=folder)
        with os.fdopen(handle, "a+b") as file:
            is_cut = file.tell() and os.pread(handle, 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(is_cut) + line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def remove_inside(root: Path, name: str) -> None:
    """Remove a file below a folder, never through a symbolic link; see `write_inside`."""
    with io_advice(root / name), _opened_parent(root, name) as (folder, file_name):
        os.unlink(file_name, dir_fd=folder)


@contextmanager
def _opened_parent(root: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield a handle of the folder that holds `name` below `root`, and the name of the file in it."""
    inner, _, file_name = name.rpartition("/")
    with ExitStack() as stack:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, handle)
        if inner:
            handle = os.open(inner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=handle)
            stack.callback(os.close, handle)
        yield handle, file_name


def make_folder(path: Path) -> Path:
    """Create a folder and its parents if missing, and return it.

    Raises:
        FedsimError: the folder cannot be created.
    """
    with io_advice(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def make_inner_folder(root: Path, name: str) -> Path:
    """Create a folder directly inside `root` if missing, and return it.

    Raises:
        FedsimError: the folder cannot be created, or is a symbolic link, so that files would be written elsewhere.
    """
    path = root / name
    make_folder(root)
    refuse_link(path)
    with io_advice(path):
        path.mkdir(exist_ok=True)
    return path


def refuse_link(path: Path) -> None:
    """Check that an output path is no symbolic link.

    Raises:
        FedsimError: the path is a symbolic link.
    """
    if path.is_symlink():
        raise FedsimError(
            f"{path} is a symbolic link: files would be written to {os.readlink(path)}. Remove "
            "the link, or choose another --out."
        )


def open_log(path: Path) -> TextIO:
    """Return a text file opened in append mode, created if missing.

    Raises:
        FedsimError: the file cannot be written, or is a symbolic link.
    """
    refuse_link(path)
    with io_advice(path):
        return os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666), "a"
        )


def check_writable(folder: Path) -> None:
    """Check that files can be created in a folder.

    Raises:
        FedsimError: no file can be created.
    """
    probe = folder / f"{_REST}{secrets.token_hex(8)}"
    with io_advice(folder):
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed writes from a folder. No other process may be writing to the folder."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with io_advice(folder):
        for path in folder.glob(f"{_REST}*"):
            if path.name not in (LOCK, MANIFEST):
                path.unlink()


@contextmanager
def io_advice(path: Path) -> Iterator[None]:
    """Convert an `OSError` on a file or folder into an error message with advice.

    Raises:
        FedsimError: the system refused; its cause is the `OSError`.
    """
    try:
        yield
    except OSError as error:
        advice = "Make room, and run the same command again" if is_full(error) else "Choose another place"
        raise FedsimError(f"cannot write to {path}: {error.strerror or error}. {advice}.") from error


def is_full(error: BaseException | None) -> bool:
    """Return whether the error means that the disk or the quota is full."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextmanager
def lock_folder(folder: Path, owner: str) -> Iterator[None]:
    """Lock a folder against other processes. The lock ends with the process, even after a kill.

    Raises:
        FedsimError: another process, named `owner` in the message, holds the lock, or the folder cannot be written.
    """
    path = folder / LOCK
    while True:
        with io_advice(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            if not _holds(handle):
                os.close(handle)
                raise FedsimError(f"{owner} is at work in {folder}. Wait for it, or choose another --out.")
        if _is(path, handle):
            break
        os.close(handle)  # the former holder removed the lock file after it was opened here
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def remove_stale_lock(folder: Path) -> None:
    """Remove the lock file of a killed process; a lock in use or without permission to remove stays."""
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


def is_temporary(path: Path) -> bool:
    """Return whether the file is a temporary file of a killed write."""
    return path.name.startswith(_REST) and path.is_file() and not path.is_symlink()
