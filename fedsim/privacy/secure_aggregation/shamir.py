"""t-of-n secret sharing: any t shares give the secret, fewer reveal nothing about it.

Source: Shamir 1979, "How to share a secret", doi 10.1145/359168.359176. The secret is the constant term of a polynomial
of degree t - 1 over the field of the Mersenne prime 2**521 - 1, the smallest above 2**256; a share is its value at a
point other than 0.
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
    """Return the value of each share, by its point.

    Args:
        secret: `SECRET_BYTES` bytes.
        threshold: number of shares that give the secret, at least 1.
        points: distinct numbers from 1.
        randomness: secret seed for this polynomial only; SHAKE-256 expands it into the coefficients.

    Raises:
        FedsimError: the secret has another length, the threshold is below 1, or a point is below 1 or repeated.
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


def reconstruct(given: Iterable[Share], threshold: int) -> bytes:
    """Return the secret behind at least `threshold` shares, by Lagrange interpolation at 0.

    Raises:
        FedsimError: too few shares, two shares of a point, or shares that give no secret of 32 bytes.
    """
    ordered = sorted(given, key=lambda share: share.point)
    points = tuple(share.point for share in ordered)
    if len(set(points)) != len(points):
        raise FedsimError(f"expected a single share per point, got points {list(points)}.")
    if len(points) < threshold:
        raise FedsimError(f"{len(points)} shares cannot open a secret that needs {threshold}.")
    weights = _weights_at_zero(points[:threshold])
    values = (int.from_bytes(share.value) for share in ordered[:threshold])
    secret = sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME
    if secret.bit_length() > 8 * SECRET_BYTES:
        raise FedsimError("the shares do not belong to the same secret: polynomials or thresholds differ.")
    return secret.to_bytes(SECRET_BYTES)


def _random_elements(randomness: bytes, count: int) -> list[int]:
    # 521 bits: uniform up to 2**-521, since 0 has two representations.
    stream = hashlib.shake_256(randomness).digest(SHARE_BYTES * count)
    chunks = (stream[start : start + SHARE_BYTES] for start in range(0, len(stream), SHARE_BYTES))
    return [(int.from_bytes(chunk) & PRIME) % PRIME for chunk in chunks]


def _value(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value


# The same few groups of clients open all secrets of a round.
@lru_cache(maxsize=256)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    weights = []
    for point in points:
        numerator = denominator = 1
        for second in points:
            if second != point:
                numerator = numerator * second % PRIME
                denominator = denominator * (second - point) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
