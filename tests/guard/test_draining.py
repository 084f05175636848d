"""A pipe is copied up to a limit and read to its end; its writer never waits and changes nothing that was copied."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from fedsim.guard.draining import Drain


def drained(content: bytes, limit: int) -> bytes:
    """Return what is copied of a content that is larger than a pipe."""
    reading, writing = os.pipe()
    file = io.BytesIO()
    drain = Drain(os.fdopen(reading, "rb", 0), file, limit)
    with os.fdopen(writing, "wb", 0) as pipe:
        left = memoryview(content)
        while left:
            left = left[pipe.write(left) or 0 :]
    drain.finish(60)
    return file.getvalue()


@pytest.mark.parametrize("limit", [0, 1, 99_999, 299_999, 300_000, 300_001])
def test_the_first_bytes_are_copied_and_all_are_read(limit: int) -> None:
    content = os.urandom(300_000)
    assert drained(content, limit) == content[:limit]


def test_a_file_that_cannot_be_written_does_not_stop_the_writer(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    file = (tmp_path / "log").open("ab")
    file.close()
    drain = Drain(os.fdopen(reading, "rb", 0), file, 10**6)
    for _ in range(40):
        os.write(writing, bytes(10_000))
    os.close(writing)
    drain.finish(60)
    assert (tmp_path / "log").read_bytes() == b""


def test_a_pipe_that_stays_open_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    drain = Drain(os.fdopen(reading, "rb", 0), io.BytesIO(), 10)
    done = threading.Event()
    threading.Thread(target=lambda: (drain.finish(0.1), done.set()), daemon=True).start()
    assert done.wait(60)
    os.close(writing)
