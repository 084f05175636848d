"""Interface of models that fill masked positions of a text."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def mask_token(model: nn.Module) -> int | None:
    """Return the mask token of a model that fills masked positions; None for other models."""
    token = getattr(model, "mask_token", None)
    return token if isinstance(token, int) else None


def scoring_places(model: nn.Module, places: Iterable[int]) -> set[int]:
    """Return the positions of the states that score the tokens at the given positions.

    These are the same positions, or in a shifted model the preceding positions; position 0 scores its own token.
    """
    before = int(getattr(model, "is_shifted", False))
    return {max(0, place - before) for place in places}


def exclude_mask_token(scores: Tensor, mask: int) -> Tensor:
    """Return scores (..., V) with -inf for the mask token; unchanged if the model does not score it."""
    if mask >= scores.shape[-1]:
        return scores
    return scores.index_fill(-1, torch.tensor([mask], device=scores.device), -torch.inf)
