"""Models that fill in masked places of a text: they name the token that stands there."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def mask_token(model: nn.Module) -> int | None:
    """Return the token of masked places, which is no word, of a model that fills them in; None of any other."""
    token = getattr(model, "mask_token", None)
    return token if isinstance(token, int) else None


def scoring_places(model: nn.Module, places: Iterable[int]) -> set[int]:
    """Return the places whose states score the tokens at these places.

    They are the same ones, and in a model that is shifted those before; the first place scores its own token.
    """
    before = int(getattr(model, "is_shifted", False))
    return {max(0, place - before) for place in places}


def without_mask(scores: Tensor, mask: int) -> Tensor:
    """Return scores (..., V) with -inf for the mask token; as they are where the model does not score it."""
    if mask >= scores.shape[-1]:
        return scores
    return scores.index_fill(-1, torch.tensor([mask], device=scores.device), -torch.inf)
