"""t-of-n secret sharing: any t shares give the secret, fewer say nothing about it.

Paper: Shamir 1979, "How to share a secret", doi 10.1145/359168.359176. The secret is the constant term of a polynomial
of degree t - 1 over the field of the Mersenne prime 2**521 - 1, the smallest above 2**256; a share is its value at a
point that is not 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedsim.core.errors import FedsimError

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


@dataclass(frozen=True)
class Share:
    """The value of the polynomial at `point`, big-endian in `SHARE_BYTES` bytes."""

    point: int
    value: bytes


def shares(secret: bytes, threshold: int, points: Sequence[int], randomness: bytes) -> dict[int, bytes]:
    """Return the value of each share by its point.

    Args:
        secret: `SECRET_BYTES` bytes.
        threshold: number of shares that give the secret back, at least 1.
        points: different numbers from 1.
        randomness: a secret seed that is used for this one polynomial; its coefficients are the output of SHAKE-256.

    Raises:
        FedsimError: a secret of another length, a threshold below 1, or points that are not usable.
    """
    if len(secret) != SECRET_BYTES or threshold < 1:
        raise FedsimError(
            f"expected a secret of {SECRET_BYTES} bytes and a threshold of at least 1, got {len(secret)} bytes and "
            f"{threshold}."
        )
    if len(set(points)) != len(points) or any(point < 1 for point in points):
        raise FedsimError(f"shares need different points from 1, got {list(points)}.")
    coefficients = [*_random_elements(randomness, threshold - 1), int.from_bytes(secret)]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES) for point in points}


def reconstructed(given: Iterable[Share], threshold: int) -> bytes:
    """Return the secret behind at least `threshold` shares, by Lagrange interpolation at 0.

    Raises:
        FedsimError: too few shares, two of one point, or shares that lead to no secret of 32 bytes.
    """
    ordered = sorted(given, key=lambda share: share.point)
    points = tuple(share.point for share in ordered)
    if len(set(points)) != len(points):
        raise FedsimError(f"every point may give one share, got points {list(points)}.")
    if len(points) < threshold:
        raise FedsimError(f"{len(points)} shares cannot open a secret that needs {threshold}.")
    weights = _weights_at_zero(points[:threshold])
    values = (int.from_bytes(share.value) for share in ordered[:threshold])
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret.bit_length() > 8 * SECRET_BYTES:
        raise FedsimError(
            "the shares do not belong to one secret: one is of another polynomial, or the threshold is another."
        )
    return secret.to_bytes(SECRET_BYTES)


def _random_elements(randomness: bytes, count: int) -> list[int]:
    # 521 bits, uniform but for the two names of 0, which differ from uniform by 2**-521.
    stream = hashlib.shake_256(randomness).digest(SHARE_BYTES * count)
    chunks = (stream[start : start + SHARE_BYTES] for start in range(0, len(stream), SHARE_BYTES))
    return [(int.from_bytes(chunk) & PRIME) % PRIME for chunk in chunks]


def _value(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value


# Every secret of a round is opened with the shares of the same few groups of clients.
@lru_cache(maxsize=256)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
