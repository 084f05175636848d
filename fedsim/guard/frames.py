"""What guard and app send each other: parts of bytes, each behind its length in eight bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

_LENGTH = struct.Struct(">Q")
HEAD = _LENGTH.size


def write(stream: IO[bytes], *parts: bytes) -> None:
    """Write parts, in their order."""
    for part in parts:
        stream.write(_LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def read(stream: IO[bytes], most: int) -> Iterator[bytes]:
    """Yield parts until the end.

    Args:
        stream: of bytes.
        most: bytes of a part.

    Raises:
        ValueError: a part is longer, or the end comes before that of a part.
    """
    while head := stream.read(HEAD):
        length = _LENGTH.unpack(head)[0] if len(head) == HEAD else most + 1
        if length > most:
            raise ValueError(f"a part of {length} bytes, expected at most {most}")
        part = stream.read(length)
        if len(part) < length:
            raise ValueError(f"{len(part)} bytes, expected {length}")
        yield part
