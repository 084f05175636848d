"""Frames arrive as they were sent; a frame that is cut off or too long is an error."""

import io
import struct
from pathlib import Path

import pytest

from fedsim.processes import frames
from fedsim.processes.frames import Frame, FrameAssembler, FrameError

STREAM = frames.frame(b"a", b"one") + frames.frame(b"b", b"") + frames.frame(b"c", b"three")
SENT = [Frame(b"a", b"one"), Frame(b"b", b""), Frame(b"c", b"three")]


def test_frames_arrive_in_their_order_up_to_the_limit_of_their_length() -> None:
    assert list(frames.read_all(io.BytesIO(STREAM), 5)) == SENT
    with pytest.raises(FrameError, match="^5 bytes, expected at most 4$"):
        list(frames.read_all(io.BytesIO(STREAM), 4))


def test_parts_and_json_are_payloads() -> None:
    stream = io.BytesIO()
    frames.write_parts(stream, b"one", b"")
    stream.write(frames.json_frame({"é": [1, None]}))
    stream.seek(0)
    *parts, last = frames.read_all(stream)
    assert parts == [Frame(frames.PART, b"one"), Frame(frames.PART, b"")]
    assert last == Frame(frames.JSON, b'{"\\u00e9": [1, null]}')
    assert last.json() == {"é": [1, None]}


@pytest.mark.parametrize(
    ("kind", "payload", "why"),
    [
        (frames.PART, b"1", "^a frame of kind b'p', expected b'j'$"),
        (frames.JSON, b"{", "^a payload that is not JSON: "),
        (frames.JSON, b"\xff", "^a payload that is not JSON: "),
    ],
)
def test_a_frame_of_anything_else_has_no_json(kind: bytes, payload: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        Frame(kind, payload).json()


def test_json_is_sent_at_once(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as stream:
        frames.write_json(stream, [1])
        assert (tmp_path / "file").read_bytes() == frames.frame(frames.JSON, b"[1]")


def test_a_stream_of_parts_has_payloads_of_this_kind_alone() -> None:
    stream = io.BytesIO()
    frames.write_parts(stream, b"one", b"", b"three")
    parts = stream.getvalue()
    assert list(frames.read_parts(io.BytesIO(parts), 5)) == [b"one", b"", b"three"]
    with pytest.raises(FrameError, match="^5 bytes, expected at most 4$"):
        list(frames.read_parts(io.BytesIO(parts), 4))
    with pytest.raises(FrameError, match="^4 bytes, expected 5$"):
        list(frames.read_parts(io.BytesIO(parts[:-1]), 5))
    with pytest.raises(FrameError, match="a frame of kind b'j', expected b'p'"):
        list(frames.read_parts(io.BytesIO(parts + frames.json_frame(1)), 5))


@pytest.mark.parametrize(
    ("end", "why"), [(1, "^1 bytes, expected 9"), (8, "^8 bytes"), (9, "^0 bytes, expected 3"), (11, "^2 bytes")]
)
def test_a_frame_that_is_cut_off_is_an_error(end: int, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        frames.read(io.BytesIO(STREAM[:end]), 5)
    assert frames.read(io.BytesIO(STREAM[:12]), 5) == SENT[0]


@pytest.mark.parametrize("size", [1, 4, 10, len(STREAM)])
def test_pieces_of_any_size_become_the_same_frames(size: int) -> None:
    assembler, found = FrameAssembler(), list[Frame]()
    for start in range(0, len(STREAM), size):
        assembler.add(STREAM[start : start + size])
        while (frame := assembler.take(5)) is not None:
            found.append(frame)
    assert found == SENT


def test_the_length_is_refused_before_the_payload_is_there() -> None:
    head = struct.pack("<cQ", b"a", 2**64 - 1)
    assembler = FrameAssembler()
    assembler.add(head[:-1])
    assert assembler.take(5) is None
    assembler.add(head[-1:])
    with pytest.raises(FrameError, match=r"18,446,744,073,709,551,615 bytes, expected at most 5"):
        assembler.take(5)
    with pytest.raises(FrameError, match=r"expected at most 5"):
        frames.read(io.BytesIO(head), 5)
