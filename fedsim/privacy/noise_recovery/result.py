"""Result of an attempt to compute the noise of a message."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FEWEST_JUDGED = 64  # values of a tensor that is judged alone: unrelated noise has a coefficient of 0 +- 1/8
_FEWEST_POOLED = 8  # values: fewer are no evidence
_FITS = 0.5  # smallest regression coefficient: 1 is expected where noise is part of the values, 0 elsewhere


@dataclass(frozen=True)
class ComputedNoise:
    """Recovered noise.

    Attributes:
        noise: noise of variance 1 in each tensor, in the order of the draws; 0 in a tensor that it does not fit.
        generator: name of the generator, such as ``MT19937 (torch CPU)``.
        source: how it was found: ``state``, or ``seed N``.
        coordinates: number of values with used bits; for a guessed seed, number of compared values.
        equations: linear equations over GF(2), 0 for a guessed seed.
        rank: of the equations.
        dropped_equations: equations that contradicted the others and were left out.
        disagreement: median of the absolute difference between seen values and noise, in standard deviations of the
            noise, on values without used bits in tensors that the noise fits. It is about 0.95 for a wrong generator;
            for the right generator it is the size of the update.
        seconds: wall time.
        fraction: fraction of the values that lie in tensors that the noise fits, in (0, 1]. It is below 1 where the
            order of the tensors is not that of the draws, or where a part of the noise has another source.
    """

    noise: Sequence[Tensor]
    generator: str
    source: str
    coordinates: int
    equations: int
    rank: int
    dropped_equations: int
    disagreement: float
    seconds: float
    fraction: float = 1.0

    @property
    def is_complete(self) -> bool:
        """Whether the noise of every tensor was computed."""
        return self.fraction == 1.0

    def __str__(self) -> str:
        """Return the finding as a line."""
        description = (
            f"{self.generator}, {self.source} from {self.coordinates:,} coordinates in {self.seconds:.0f} seconds"
        )
        if self.is_complete:
            return f"the noise is computable ({description})"
        percent = math.floor(1000 * self.fraction) / 10
        return (
            f"the noise of {percent:g} % of the values is computable ({description}); that of the other tensors is "
            "unknown: their noise has another source, or the draws another order"
        )


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


def fits(values: Sequence[Tensor], noise: Sequence[Tensor]) -> list[bool]:
    """Return for each tensor whether it contains its noise: whether subtraction makes it clearly shorter.

    Tensors of fewer than 64 values are judged together; if they have fewer than 8 in total, they fit if all others do.

    Args:
        values: a noisy update, in standard deviations of the noise.
        noise: of variance 1, of the same shapes.
    """
    pairs = [(v.detach().double().flatten(), n.detach().double().flatten()) for v, n in zip(values, noise, strict=True)]
    is_small = [len(seen) < _FEWEST_JUDGED for seen, _ in pairs]
    large = [_is_part(seen, drawn) for (seen, drawn), small in zip(pairs, is_small, strict=True) if not small]
    pooled = [pair for pair, small in zip(pairs, is_small, strict=True) if small]
    size = sum(len(seen) for seen, _ in pooled)
    small_fit = all(large) if size < _FEWEST_POOLED else _is_part(*map(torch.cat, zip(*pooled, strict=True)))
    of_large = iter(large)
    return [small_fit if small else next(of_large) for small in is_small]


@dataclass(frozen=True)
class FittingPart:
    """Noise of the tensors that it fits.

    Attributes:
        noise: a tensor for each tensor of the update, 0 where it does not fit.
        fits: whether it fits, for each tensor.
        fraction: fraction of the values that lie in tensors that the noise fits, in [0, 1].
    """

    noise: list[Tensor]
    fits: list[bool]
    fraction: float


def fitting_part(values: Sequence[Tensor], noise: Sequence[Tensor]) -> FittingPart:
    """Return the noise of the tensors that it fits; `fits` explains the arguments."""
    fit = fits(values, noise)
    explained = sum(tensor.numel() for tensor, is_fitting in zip(values, fit, strict=True) if is_fitting)
    kept = [drawn if is_fitting else torch.zeros_like(drawn) for drawn, is_fitting in zip(noise, fit, strict=True)]
    return FittingPart(kept, fit, explained / sum(tensor.numel() for tensor in values))


def _is_part(values: Tensor, noise: Tensor) -> bool:
    return float(values @ noise) > _FITS * float(noise @ noise)


AGREES = 0.3  # largest disagreement of noise that counts as computed; unrelated noise has 0.95


def flatten_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors flattened into a float64 vector."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])
