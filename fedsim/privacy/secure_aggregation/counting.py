"""Authenticated, masked counts: the server adds them up, but cannot learn or change them unnoticed.

All clients of a round hold a key K, unknown to the server. With N clients in the cohort and 2**k the largest power of
two up to N, each adds at element e, modulo 2**bits,

    2**k a_e [it contributes] + M_e,    a_e odd and M_e uniform, both from K.

The sum of s clients is 2**k a_e c_e + s M_e. It is uniform over the multiples of the largest power of two in s, which
divides 2**k: so it is independent of the count c_e, also for even s. If a party without K adds a number to a sum, the
result decodes to a count from 0 to s with probability at most 2 s 2**k / 2**bits, since a_e is unknown.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.keys import expand
from fedsim.privacy.secure_aggregation.masks import mask
from fedsim.privacy.secure_aggregation.ring import reduce

_UNNOTICED_BITS = 20  # a forged sum passes with a chance of at most 2**-20
_DOUBLINGS = 5  # an odd number is its own inverse modulo 2**3, and each step doubles that: 96 bits


def check_modulus(cohort: int, modulus_bits: int) -> None:
    """Raise FedsimError where a forged sum would pass with a chance above 2**-20."""
    needed = ((2 * cohort << _shift(cohort) + _UNNOTICED_BITS) - 1).bit_length()
    if modulus_bits < needed:
        raise FedsimError(
            f"modulus_bits is {modulus_bits}, but counts of {cohort} clients need at least "
            f"{needed}, so that forged counts are detected. Increase modulus_bits, or set "
            "least_contributors = 1."
        )


def encode(contributes: Tensor, key: bytes, cohort: int, modulus_bits: int) -> Tensor:
    """Return a client's encoded contribution at each element.

    Args:
        contributes: 0 or 1 for each element, shape (P,).
        key: 32 bytes that all clients of the round hold.
        cohort: number of clients in the cohort.
        modulus_bits: sums are modulo 2**modulus_bits.

    Raises:
        FedsimError: an entry is neither 0 nor 1.
    """
    if ((contributes != 0) & (contributes != 1)).any():
        raise FedsimError("a client contributes to an element or not: expected 0 or 1. Use with_contributions.")
    factors, offsets = _streams(key, len(contributes), cohort, modulus_bits)
    return reduce((factors << _shift(cohort)) * contributes + offsets, modulus_bits)


def decode(total: Tensor, key: bytes, survivors: int, cohort: int, modulus_bits: int) -> Tensor:
    """Return the number of survivors that contributed to each element, int64, shape (P,).

    Args:
        total: sum of the survivors' encoded contributions.
        key: as in `encode`.
        survivors: number of survivors.
        cohort: as in `encode`.
        modulus_bits: as in `encode`.

    Raises:
        FedsimError: the total is not a sum of that many encoded contributions with this key.
    """
    factors, offsets = (_to_unsigned(stream) for stream in _streams(key, len(total), cohort, modulus_bits))
    shift, ring = np.uint64(_shift(cohort)), np.uint64((1 << modulus_bits) - 1)
    scaled = (_to_unsigned(total) - np.uint64(survivors) * offsets) & ring
    counts = ((scaled >> shift) * _inverse(factors)) & (ring >> shift)
    forged = ((scaled >> shift << shift) != scaled) | (counts > survivors)
    if forged.any():
        raise FedsimError(
            f"the total is no sum of the counts of {survivors} clients at {int(forged.sum())} elements: it was "
            "changed, or clients hold different keys."
        )
    return torch.from_numpy(counts.astype(np.int64))


def _shift(cohort: int) -> int:
    return cohort.bit_length() - 1


def _streams(key: bytes, length: int, cohort: int, modulus_bits: int) -> tuple[Tensor, Tensor]:
    """Return factor and offset of each element; a shifted factor fits into the ring."""
    factors = mask(expand(key, "factors of counts"), length, modulus_bits - _shift(cohort)) | 1
    return factors, mask(expand(key, "offsets of counts"), length, modulus_bits)


def _to_unsigned(integers: Tensor) -> NDArray[np.uint64]:
    # Arithmetic of unsigned integers is modulo 2**64, of which 2**modulus_bits is a divisor.
    return integers.numpy().astype(np.uint64)


def _inverse(odd: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the inverses modulo 2**64, by Newton's iteration."""
    inverse = odd.copy()
    for _ in range(_DOUBLINGS):
        inverse *= np.uint64(2) - odd * inverse
    return inverse
