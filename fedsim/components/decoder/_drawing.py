"""Code of decoders that draw tokens: the likeliest of a distribution, and a draw from it with a row's own source."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Return probabilities (B, V) with 0 outside the smallest set of likeliest tokens that holds a share of 1."""
    if share == 1:
        return probabilities
    ordered, places = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    is_inside = ordered.cumsum(-1) - ordered < share
    return torch.zeros_like(probabilities).scatter(-1, places, ordered * is_inside)


def likeliest(probabilities: Tensor, count: int) -> Tensor:
    """Return probabilities (B, V) with 0 outside the likeliest tokens; of equal ones those numbered first stay."""
    places = torch.sort(probabilities, dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(probabilities).scatter(-1, places, probabilities.gather(-1, places))


def draw(probabilities: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """Return a token a row with odds (B, V), by one uniform number of the row's own generator."""
    below = probabilities.cumsum(-1)
    uniform = torch.stack([torch.rand(1, generator=generator, dtype=torch.double) for generator in generators]).to(
        below.device
    )
    # A uniform number is below 1, so that the product is below the last sum, unless rounding lifts it there.
    last = probabilities.shape[-1] - 1 - probabilities.flip(-1).ne(0).int().argmax(-1)
    return torch.searchsorted(below, uniform * below[:, -1:], right=True).flatten().minimum(last).tolist()
