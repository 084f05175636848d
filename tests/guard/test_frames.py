"""Parts of bytes come back as they were, and what is cut or too long is no part."""

import io
import struct

import pytest

from fedsim.guard import frames


def test_parts_come_back_in_their_order() -> None:
    stream = io.BytesIO()
    frames.write(stream, b"one", b"", b"three")
    stream.seek(0)
    assert list(frames.read(stream, 5)) == [b"one", b"", b"three"]


@pytest.mark.parametrize("end", [1, 7, 9])
def test_a_part_that_was_cut_is_an_error(end: int) -> None:
    stream = io.BytesIO()
    frames.write(stream, b"one")
    with pytest.raises(ValueError, match="expected"):
        list(frames.read(io.BytesIO(stream.getvalue()[:end]), 5))


def test_a_length_beyond_the_most_is_not_read() -> None:
    with pytest.raises(ValueError, match="a part of 18446744073709551615 bytes, expected at most 5"):
        list(frames.read(io.BytesIO(struct.pack(">Q", 2**64 - 1)), 5))
