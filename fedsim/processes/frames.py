"""Frames: the messages between a process and its subprocess.

A frame is a kind (one byte), the length of the payload (eight bytes, little-endian), and the payload. The receiver
limits the length, and checks the limit before it reads the payload.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from fedsim.core.errors import FedsimError

Kind = bytes
HELLO, CALL = b"h", b"c"  # to an isolated method
STEP, ANSWER, FAILED = b"i", b"w", b"f"  # from an isolated method
JSON = b"j"
PART = b"p"  # bytes of a known place in a sequence

_HEAD = struct.Struct("<cQ")
HEAD_SIZE = _HEAD.size


class Frame(NamedTuple):
    """A message."""

    kind: Kind
    payload: bytes

    def json(self) -> Any:
        """Return the value of a JSON frame.

        Raises:
            FrameError: the frame is of another kind, or its payload is not JSON.
        """
        if self.kind != JSON:
            raise FrameError(f"a frame of kind {self.kind!r}, expected {JSON!r}")
        try:
            return json.loads(self.payload)
        except ValueError as error:
            raise FrameError(f"a payload that is not JSON: {error}") from error


class FrameError(FedsimError):
    """A frame is cut off, longer than its limit, or not of the expected kind."""


def frame(kind: Kind, payload: bytes) -> bytes:
    """Return the bytes of a frame."""
    return _HEAD.pack(kind, len(payload)) + payload


def json_frame(value: Any) -> bytes:
    """Return the bytes of a frame with a JSON payload."""
    return frame(JSON, json.dumps(value).encode())


def write_json(stream: IO[bytes], value: Any) -> None:
    """Write a value as a frame of JSON."""
    stream.write(json_frame(value))
    stream.flush()


def write_parts(stream: IO[bytes], *parts: bytes) -> None:
    """Write every part as a frame of kind `PART`."""
    for part in parts:
        stream.write(_HEAD.pack(PART, len(part)))
        stream.write(part)
    stream.flush()


def read(stream: IO[bytes], limit: float = math.inf) -> Frame | None:
    """Return the next frame of a blocking stream; None at the end of the stream.

    Args:
        stream: of bytes.
        limit: largest payload in bytes; a stream of a trusted process needs none.

    Raises:
        FrameError: the payload is longer, or the stream ends within the frame.
    """
    head = stream.read(HEAD_SIZE)
    if not head:
        return None
    if len(head) < HEAD_SIZE:
        raise FrameError(f"{len(head)} bytes, expected {HEAD_SIZE} of a head")
    kind, length = _checked_head(head, limit)
    payload = stream.read(length)
    if len(payload) < length:
        raise FrameError(f"{len(payload):,} bytes, expected {length:,}")
    return Frame(kind, payload)


def read_all(stream: IO[bytes], limit: float = math.inf) -> Iterator[Frame]:
    """Yield the frames of a stream until its end; arguments and errors as in `read`."""
    while (found := read(stream, limit)) is not None:
        yield found


def read_parts(stream: IO[bytes], limit: float = math.inf) -> Iterator[bytes]:
    """Yield the payloads of a stream of parts until its end.

    Args:
        stream: of bytes.
        limit: largest payload in bytes.

    Raises:
        FrameError: as in `read`, or a frame is of another kind.
    """
    for kind, payload in read_all(stream, limit):
        if kind != PART:
            raise FrameError(f"a frame of kind {kind!r}, expected {PART!r}")
        yield payload


class FrameAssembler:
    """Joins pieces of a stream to frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, piece: bytes) -> None:
        """Append the next bytes of the stream."""
        self._bytes += piece

    def take(self, limit: float) -> Frame | None:
        """Return and remove the next frame; None while it is incomplete.

        Raises:
            FrameError: the payload is longer than `limit` bytes.
        """
        if len(self._bytes) < HEAD_SIZE:
            return None
        kind, length = _checked_head(self._bytes[:HEAD_SIZE], limit)
        end = HEAD_SIZE + length
        if len(self._bytes) < end:
            return None
        payload = bytes(memoryview(self._bytes)[HEAD_SIZE:end])
        del self._bytes[:end]
        return Frame(kind, payload)


def _checked_head(head: bytes | bytearray, limit: float) -> tuple[Kind, int]:
    kind, length = _HEAD.unpack(head)
    if length > limit:
        raise FrameError(f"{length:,} bytes, expected at most {limit:,}")
    return kind, length
