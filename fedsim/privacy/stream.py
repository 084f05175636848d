"""Key stream of ChaCha20 (RFC 8439)."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

KEY_BYTES = 32

_START = bytes(16)  # counter and nonce; a key is expanded once


def key_stream(key: bytes, length: int) -> bytes:
    """Return the first `length` bytes of the stream of a key of 32 bytes that is used only here."""
    return Cipher(ChaCha20(key, _START), mode=None).encryptor().update(bytes(length))


def secret_bytes(length: int) -> bytes:
    """Return bytes of the stream of a new key from the operating system.

    No state outlives the call, so neither a fork nor a copy of an object nor another thread can repeat the bytes.
    """
    return key_stream(os.urandom(KEY_BYTES), length)
