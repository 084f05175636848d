"""Texts read with nothing kept, for what keeps something to be compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsim.core.nets.kv_cache import DecodingCache, Draft

ROUNDING = 1e-9  # double precision: sums of at most 23 terms of size 10, in another order, through two layers

TREE = Draft((3, 4, 5, 3, 6), (-1, -1, 0, 1, 2))


def anew(model: nn.Module, text: Sequence[int]) -> Tensor:
    """The scores behind a text, with nothing kept."""
    return model(torch.tensor([list(text)]))[0, -1]


def check(past: DecodingCache, model: nn.Module, texts: Sequence[Sequence[int]], tolerance: float = ROUNDING) -> None:
    for text, score in zip(texts, past.scores(model, texts), strict=True):
        torch.testing.assert_close(score[0], anew(model, text), rtol=0, atol=tolerance)
