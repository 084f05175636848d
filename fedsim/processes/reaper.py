"""A small process that ends what a run started on this machine, when the run was killed and cannot.

It is told the process groups, a line each, and that all is well with a last line. When its input ends without that line
it ends the groups and removes their folder. It is started as a file and needs nothing but Python's own modules.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

_DONE = "done"
_PATIENCE = 5.0  # seconds in which a process that was killed may still hold or write a file
_POLL_INTERVAL = 0.1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Guardian:
    """Told of every process group while the run lives."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe

    def watch(self, group: int) -> None:
        """Have a process group ended with this process."""
        self._tell(str(group))

    def dismiss(self) -> None:
        """Say that everything is ended and removed."""
        self._tell(_DONE)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guardian; the run goes on without it
            self._pipe.write(f"{line}\n")
            self._pipe.flush()


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[Guardian]:
    """Start a guardian of this folder and of the groups that it will be told of."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdin is not None
    guardian = Guardian(process.stdin)
    try:
        yield guardian
    finally:
        guardian.dismiss()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def serve(lines: Iterable[str], folder: Path) -> None:
    """Wait for the end of the lines, and end the groups unless the last line says that all is well."""
    groups: list[int] = []
    for line in lines:
        if line.strip() == _DONE:
            return
        groups.append(int(line))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while folder.exists():
        try:
            remove_tree(folder)
        except OSError as error:
            if time.monotonic() >= deadline:
                print(f"cannot remove {folder}: {error}. Remove it by hand.", file=sys.stderr)
                return
            time.sleep(_POLL_INTERVAL)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that it holds, however deep it is nested and whatever the modes of its folders.

    Subfolders are moved up, so that two folders are open at a time and no path is long.

    Raises:
        OSError: an entry belongs to another user, or is written at the same time.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    folder.chmod(stat.S_IRWXU)
    root = os.open(folder, _FOLDER)
    try:
        while names := os.listdir(root):
            for name in names:
                _remove_entry(root, name)
    finally:
        os.close(root)
    folder.rmdir()


def _remove_entry(root: int, name: str) -> None:
    """Remove a file, or a folder whose subfolders are moved to the root."""
    if not _is_folder(root, name):
        os.unlink(name, dir_fd=root)
        return
    os.chmod(name, stat.S_IRWXU, dir_fd=root)
    folder = os.open(name, _FOLDER, dir_fd=root)
    try:
        for below in os.listdir(folder):
            if _is_folder(folder, below):
                os.chmod(below, stat.S_IRWXU, dir_fd=folder)  # moving a folder writes to it
                os.rename(below, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=root)
            else:
                os.unlink(below, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=root)


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin, Path(sys.argv[1]))
