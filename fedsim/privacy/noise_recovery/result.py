"""Result of an attempt to compute the noise of a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ComputedNoise:
    """Recovered noise.

    Attributes:
        noise: noise of variance 1 in each tensor, in the order of the draws.
        generator: name of the generator, such as ``MT19937 (torch CPU)``.
        source: how it was found: ``state``, or ``seed N``.
        coordinates: number of values with used bits; for a guessed seed, number of compared values.
        equations: linear equations over GF(2), 0 for a guessed seed.
        rank: of the equations.
        dropped: equations that contradicted the others and were left out.
        disagreement: median of the absolute difference between seen values and noise, in standard deviations of the
            noise, on values without used bits. It is about 0.95 for a wrong generator; for the right generator it is
            the size of the update.
        seconds: wall time.
    """

    noise: Sequence[Tensor]
    generator: str
    source: str
    coordinates: int
    equations: int
    rank: int
    dropped: int
    disagreement: float
    seconds: float

    def __str__(self) -> str:
        """Return the finding as a line."""
        how = f"{self.source} from {self.coordinates:,} coordinates in {self.seconds:.0f} seconds"
        return f"the noise is computable ({self.generator}, {how})"


@dataclass(frozen=True)
class UnknownNoise:
    """Noise that was not computed.

    Attributes:
        reason: why.
        seconds: wall time.
    """

    reason: str
    seconds: float

    def __str__(self) -> str:
        """Return the finding as a line."""
        return f"the noise was not computed: {self.reason}"


def disagreement(values: Tensor, noise: Tensor) -> float:
    """Return the median absolute difference of two vectors, infinite for empty vectors."""
    if not values.numel():
        return float("inf")
    return float((values.double() - noise.double()).abs().median())


AGREES = 0.3  # largest disagreement of noise that counts as computed; unrelated noise has 0.95


def concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors flattened into a float64 vector."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])
