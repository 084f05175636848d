"""Scores of drafts among few tokens: the output layer of a large vocabulary costs as much as several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.past import Stack
from fedsim.core.past.stack import Weighted


class DraftConfig(DrawConfig):
    """Settings of what drafts."""

    shortlist: int = Field(
        default=0,
        ge=0,
        description="tokens that a draft may hold: the first so many, which are frequent ones in most tokenizers, and "
        "those of the text so far; 0: all",
    )


def score_drafts(stack: Stack, hidden: Tensor, text: Sequence[int], first: int) -> Tensor:
    """Return scores (N, V) of hidden states (N, width), below all numbers where a token is not on the short list.

    Zhao et al. 2025, arXiv 2502.14856: a draft among frequent tokens alone is judged by the model among all of them, so
    what is written stays the model's own.

    Args:
        stack: the model that drafts.
        hidden: behind its last layer, or behind an exit.
        text: tokens that are on the list too.
        first: tokens from 0 on that are on the list; 0 for all.
    """
    if not first or not isinstance(stack, Weighted):
        return stack.score(hidden)
    weight = stack.weight
    if weight is None or first >= len(weight):
        return stack.score(hidden)
    normed = stack.norm(hidden)
    scores = torch.full((*hidden.shape[:-1], len(weight)), -torch.inf, dtype=hidden.dtype, device=hidden.device)
    scores[..., :first] = normed @ weight[:first].T
    seen = torch.tensor(sorted({token for token in text if token >= first}), dtype=torch.long, device=hidden.device)
    if len(seen):
        scores[..., seen] = normed @ weight[seen].T
    return scores
