"""Updates as integers, and modular sums of integers as weighted means.

A coordinate v becomes an integer q with E[q] = (clip(v) + c) / step and |q - E[q]| < 1, where c is the clipping range
and step = 2c / (levels - 1). A client with weight w sends w * q and, as an additional coordinate, w itself: the sum
over the cohort suffices for a weighted mean, and hides each client's weight. Then

    mean = step * sum(w q) / sum(w) - c,    |mean - true mean of the clipped vectors| < step,

for all weights and numbers of clients, because a mean of errors below a step is below a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation.config import MOST_BITS, SecureQuantisation, bits_for
from fedsim.privacy.secure_aggregation.ring import check_element

_WORDS = 1 << 16  # number of values of the random integers that decide on rounding up
_BLOCK = 1 << 16  # coordinates per block, so that a block stays in the processor's cache


class NotFinite(FedsimError):
    """A vector that cannot be quantised."""


@dataclass(frozen=True)
class WeightedMean:
    """The mean behind a sum.

    Attributes:
        mean: weighted mean of the clipped vectors, float64, shape (P,).
        weight: total weight of the participants.
    """

    mean: Tensor
    weight: int


def narrowest(weight: int, quantisation: SecureQuantisation) -> torch.dtype:
    """Return int32 where it can hold the weighted levels of a client with this weight, else int64."""
    return torch.int32 if (quantisation.levels - 1) * weight <= torch.iinfo(torch.int32).max else torch.int64


def weighted_levels(
    vector: Tensor,
    weight: int,
    quantisation: SecureQuantisation,
    generator: torch.Generator,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Return (weight * levels, weight), shape (P + 1,), which a client adds to the sum.

    A coordinate's level is floor(position + u) in [0, levels), with u uniform on the odd multiples of 2^-17 in (0, 1):
    the bias is below 2^-17 levels.

    Args:
        vector: shape (P,).
        weight: number of examples, or 1; with 0, as after empty batches, the client adds nothing.
        quantisation: holds range, levels and modulus.
        generator: decides which coordinates are rounded up.
        dtype: int64, which masks need, or the type from `narrowest`.

    Raises:
        NotFinite: not a vector, or entries are not finite, which would corrupt the sum unnoticed.
        FedsimError: the weight is below 0, or too large for the modulus.
    """
    check_total_weight(weight, quantisation)
    if vector.dim() != 1 or not _is_finite(vector):
        raise NotFinite(
            f"expected a finite vector to quantise, got shape {tuple(vector.shape)} with "
            f"{int((~torch.isfinite(vector)).sum())} entries that are not finite. Leave this client out of the round."
        )
    levels = torch.empty(len(vector) + 1, dtype=dtype)
    levels[-1] = weight
    words = _random_words(len(vector), generator)
    middle = 0.5 + 0.5 / _WORDS  # offset of u, since its words are signed
    least, highest = middle, quantisation.levels - 1.0 + middle
    for values, word, output in zip(
        *(part.split(_BLOCK) for part in (vector.detach().cpu(), words, levels[:-1])), strict=True
    ):
        position = values.to(torch.float64, copy=True).mul_(1.0 / quantisation.step)
        position.add_(quantisation.clipping_range / quantisation.step + middle).clamp_(least, highest)
        output.copy_(position.add_(word.double(), alpha=1.0 / _WORDS)).mul_(weight)  # the copy to integers rounds down
    return levels


def _random_words(count: int, generator: torch.Generator) -> Tensor:
    """Return uniform signed 16-bit integers, four per draw of the generator."""
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None, generator=generator)
    return draws.view(torch.int16)[:count]


def _is_finite(vector: Tensor) -> bool:
    """Return whether every entry is finite, in a single pass without allocation (extremes propagate NaN)."""
    return not len(vector) or all(math.isfinite(float(extreme)) for extreme in vector.aminmax())


def weighted_mean(total: Tensor, quantisation: SecureQuantisation) -> WeightedMean:
    """Return the mean behind the modular sum, shape (P + 1,), of the cohort's `weighted_levels`.

    The mean is 0 where the total weight is 0. The total weight is also modulo 2**modulus_bits; it shows every wrapped
    sum as long as the cohort is smaller than the number of levels. A caller that knows the largest weight of a client
    must check the largest total beforehand with `check_total_weight`.

    Raises:
        FedsimError: the sum may have wrapped around at this total weight, or is larger than levels can make it.
    """
    check_element(total, quantisation.modulus_bits)
    weight = int(total[-1])
    check_total_weight(weight, quantisation)
    if bool((total[:-1] > (quantisation.levels - 1) * weight).any()):
        raise FedsimError(f"the sum is larger than {quantisation.levels} levels and a weight of {weight} can make it.")
    if not weight:
        return WeightedMean(torch.zeros(len(total) - 1, dtype=torch.float64), 0)
    return WeightedMean(total[:-1].double() / weight * quantisation.step - quantisation.clipping_range, weight)


def check_total_weight(weight: int, quantisation: SecureQuantisation) -> None:
    """Raise FedsimError unless a sum with this total weight fits the modulus.

    A server that knows the largest possible total weight can check before the first round.
    """
    if weight < 0:
        raise FedsimError(f"the weight of a client is a whole number of at least 0, got {weight}.")
    if weight <= quantisation.max_total_weight:
        return
    needed = bits_for(quantisation.levels, weight)
    advice = (
        f"Set modulus_bits to at least {needed} (at most {MOST_BITS})"
        if needed <= MOST_BITS
        else "Lower levels, since no modulus_bits is enough"
    )
    raise FedsimError(
        f"a total weight of {weight} does not fit: with levels = {quantisation.levels} and modulus_bits = "
        f"{quantisation.modulus_bits} it may be at most {quantisation.max_total_weight}. {advice}, lower levels, "
        "or give every client the weight 1."
    )
