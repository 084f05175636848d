"""Masks: long pseudorandom vectors from 32 bytes that two clients share or a single client keeps.

The whole key goes into the ChaCha20 stream (RFC 8439). A 32-bit seed, as for a NumPy generator, could be found by
exhaustive search.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.secure_aggregation.ring import reduce
from fedsim.privacy.stream import key_stream

_SHORT_BITS = 32


def mask(secret: bytes, length: int, modulus_bits: int) -> Tensor:
    """Return `length` int64 integers in [0, 2**modulus_bits) from a secret of 32 bytes that is used only here."""
    kind = np.dtype("<u4" if modulus_bits <= _SHORT_BITS else "<u8")
    words = np.frombuffer(key_stream(secret, length * kind.itemsize), dtype=kind).astype(np.int64)
    return reduce(torch.from_numpy(words), modulus_bits)
