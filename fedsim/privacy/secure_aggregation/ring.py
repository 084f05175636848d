"""Arithmetic modulo 2**bits on int64 tensors, without overflow for up to 62 bits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError

_SIGN_BIT = 63


def reduce(integers: Tensor, modulus_bits: int) -> Tensor:
    """Return int64 `integers`, negative or not, modulo 2**modulus_bits, in [0, 2**modulus_bits)."""
    return integers & ((1 << modulus_bits) - 1)


def modular_sum(vectors: Iterable[Tensor], modulus_bits: int) -> Tensor:
    """Return the sum modulo 2**modulus_bits of vectors in [0, 2**modulus_bits); empty without vectors.

    Raises:
        FedsimError: the vectors differ in length.
    """
    remaining = iter(vectors)
    total = next(remaining, torch.empty(0)).to(torch.int64, copy=True)
    added = 1
    for vector in remaining:
        if vector.shape != total.shape:
            raise FedsimError(
                f"secure aggregation adds vectors of equal length, but got {len(total)} and "
                f"{len(vector)} entries. All clients of a round must train the same parameters."
            )
        total.add_(vector)
        added += 1
        if added >> (_SIGN_BIT - modulus_bits):  # a further addition could overflow
            total.bitwise_and_((1 << modulus_bits) - 1)
            added = 1
    return reduce(total, modulus_bits)


def _is_reduced(vector: Tensor, modulus_bits: int) -> bool:
    if not len(vector):
        return True
    least, greatest = vector.aminmax()
    return int(least) >= 0 and int(greatest) < 1 << modulus_bits


def check_element(vector: Tensor, modulus_bits: int) -> None:
    """Raise FedsimError unless this is a vector of int64, or int32, in [0, 2**modulus_bits)."""
    is_vector = vector.dtype in (torch.int64, torch.int32) and vector.dim() == 1
    if not is_vector or not _is_reduced(vector, modulus_bits):
        raise FedsimError(
            f"expected a one-dimensional integer vector with entries in [0, 2**{modulus_bits}), got "
            f"{tuple(vector.shape)} of {vector.dtype}. Use weighted_levels of "
            "fedsim.privacy.secure_aggregation.quantisation."
        )
