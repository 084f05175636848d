"""Draft scores over a short list of tokens: the output layer of a large vocabulary costs as much as several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from fedsim.components.decoder._odds import DrawConfig
from fedsim.core.nets.kv_cache import LayerStack
from fedsim.core.nets.kv_cache.stack import Weighted


class DraftConfig(DrawConfig):
    """Settings of the drafting model."""

    shortlist: int = Field(
        default=0,
        ge=0,
        description="tokens that a draft may use: the first N of the vocabulary (the frequent tokens of most "
        "tokenizers), and the tokens of the text so far; 0: all",
    )


def score_drafts(stack: LayerStack, hidden: Tensor, text: Sequence[int], first: int) -> Tensor:
    """Return scores (N, V) of hidden states (N, width), with -inf for tokens outside the short list.

    Zhao et al. 2025, arXiv 2502.14856: drafts of frequent tokens are verified by the model over its whole vocabulary,
    so the generated text is distributed as the model's own.

    Args:
        stack: the drafting model.
        hidden: hidden states after its last layer or an exit.
        text: tokens that are added to the list.
        first: number of lowest token ids on the list; 0 for all.
    """
    short, tokens, count = score_listed(stack, hidden, text, first)
    if tokens is None:
        return short
    return short.new_full((*short.shape[:-1], count), -torch.inf).index_copy_(-1, tokens, short)


def score_listed(
    stack: LayerStack, hidden: Tensor, text: Sequence[int], first: int
) -> tuple[Tensor, Tensor | None, int]:
    """Return scores of the listed tokens (N, n), their ids (None for all), and the vocabulary size.

    See `score_drafts`.
    """
    if not first or not isinstance(stack, Weighted) or (weight := stack.weight) is None or first >= len(weight):
        scores = stack.score(hidden)
        return scores, None, scores.shape[-1]
    normed = stack.norm(hidden)
    seen = torch.tensor(sorted({token for token in text if token >= first}), dtype=torch.long, device=hidden.device)
    scores = torch.cat((normed @ weight[:first].T, normed @ weight[seen].T), -1)
    return scores, torch.cat((torch.arange(first, device=hidden.device), seen)), len(weight)
