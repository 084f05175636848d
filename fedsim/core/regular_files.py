"""Reading of files that a third party may have made."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotRegularError(OSError):
    """Raised for a folder, named pipe, socket or device in place of a regular file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. A named pipe or device is refused at once, where `open` would block.

    Raises:
        NotRegularError: the file is not a regular file.
        OSError: the file is missing or unreadable.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return open(handle, "rb")
        raise NotRegularError(errno.EINVAL, "no regular file", str(path))
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; see `open_regular`.

    Raises:
        OSError: the file is missing, unreadable, or not a regular file.
    """
    with open_regular(path) as file:
        return file.read()
