"""A small process that removes the temporary folder of this process, if this process is killed and cannot.

Its input ends with a line if all is well. Without the line it removes the folder. Subprocesses of the killed process
end at the same time (`fedsim.core.supervisor`), and may hold files for a moment. The program is started as a file and
uses only the standard library.
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
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_DONE = b"done\n"
_PATIENCE = 5.0  # seconds in which a process that was killed may still hold or write a file
_POLL_INTERVAL = 0.1
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def remove_if_killed(folder: Path) -> Iterator[None]:
    """Have a folder removed if this process is killed within the block."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # outlives this process
    try:
        yield
    finally:
        reaper.communicate(_DONE)


def serve(lines: IO[bytes], folder: Path) -> None:
    """Wait for the end of the lines, and remove the folder unless they say that all is well."""
    if lines.read() == _DONE:
        return
    deadline = time.monotonic() + _PATIENCE
    while folder.exists():
        time.sleep(_POLL_INTERVAL)
        try:
            remove_tree(folder)
        except OSError as error:
            if time.monotonic() >= deadline:
                print(f"cannot remove {folder}: {error}. Remove it by hand.", file=sys.stderr)
                return


def remove_tree(folder: Path) -> None:
    """Remove a folder and its content, at any depth and with any permissions of its subfolders.

    Subfolders are moved up, so that only two folders are open at a time and no path is long.

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
    """Remove a file, or a folder after moving its subfolders to the root."""
    if not _is_folder(root, name):
        os.unlink(name, dir_fd=root)
        return
    os.chmod(name, stat.S_IRWXU, dir_fd=root)
    folder = os.open(name, _FOLDER, dir_fd=root)
    try:
        for entry in os.listdir(folder):
            if _is_folder(folder, entry):
                os.chmod(entry, stat.S_IRWXU, dir_fd=folder)  # moving a folder writes to it
                os.rename(entry, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=root)
            else:
                os.unlink(entry, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=root)


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin.buffer, Path(sys.argv[1]))
