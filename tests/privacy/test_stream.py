"""The key stream is that of RFC 8439, and secret bytes never repeat."""

from fedsim.privacy.stream import key_stream, secret_bytes


def test_the_stream_is_that_of_the_standard():
    """RFC 8439, appendix A.1, test vectors 1 and 2: key and nonce 0, counters 0 and 1."""
    stream = key_stream(bytes(32), 128)
    assert stream[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert stream[64:80].hex() == "9f07e7be5551387a98ba977c732d080d"


def test_secret_bytes_are_new_at_every_call():
    assert len({secret_bytes(16) for _ in range(200)}) == 200
    assert [len(secret_bytes(n)) for n in (0, 1, 1000)] == [0, 1, 1000]
