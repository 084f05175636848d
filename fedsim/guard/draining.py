"""Copying a pipe of a subprocess to a file that the subprocess cannot reach."""

from __future__ import annotations

import threading
from typing import IO

_CHUNK = 1 << 16  # bytes


class Drain:
    """Reads a pipe to its end in a thread, and appends its first bytes to a file. Further bytes are dropped.

    So the subprocess never waits for a full pipe, and it can neither change nor remove bytes that it has written.
    """

    def __init__(self, pipe: IO[bytes], file: IO[bytes], limit: int) -> None:
        """Start the thread.

        Args:
            pipe: unbuffered standard output or standard error of a subprocess.
            file: destination, which this process alone can reach.
            limit: largest number of bytes that are copied.
        """
        self._pipe, self._file, self._left = pipe, file, limit
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for the end of the pipe, at most so many seconds: a process that was left behind may hold it open."""
        self._thread.join(seconds)

    def _copy(self) -> None:
        with self._pipe:
            while chunk := self._pipe.read(_CHUNK):
                self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk[: self._left])
            self._file.flush()
        except (OSError, ValueError):  # no space left, or the file was closed since the pipe stayed open
            self._left = 0
        self._left = max(0, self._left - len(chunk))
