"""Token sampling: top-p and top-k truncation, and a draw with each row's own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def nucleus(probabilities: Tensor, share: float) -> Tensor:
    """Return probabilities (B, V) with 0 outside the smallest set of most likely tokens of total mass `share`."""
    if share == 1:
        return probabilities
    ordered, places = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    is_inside = ordered.cumsum(-1) - ordered < share
    return torch.zeros_like(probabilities).scatter(-1, places, ordered * is_inside)


def likeliest(probabilities: Tensor, count: int) -> Tensor:
    """Return probabilities (B, V) with 0 outside the `count` most likely tokens; ties go to the lower index."""
    places = torch.sort(probabilities, dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(probabilities).scatter(-1, places, probabilities.gather(-1, places))


def draw(probabilities: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
    """Sample a token per row from unnormalised probabilities (B, V), with a uniform number per row."""
    cumulative = probabilities.cumsum(-1)
    uniform = torch.stack([torch.rand(1, generator=generator, dtype=torch.double) for generator in generators]).to(
        cumulative.device
    )
    # A uniform number is below 1, so the product is below the last sum, except for rounding errors.
    last = probabilities.shape[-1] - 1 - probabilities.flip(-1).ne(0).int().argmax(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).flatten().minimum(last).tolist()
