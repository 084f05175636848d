"""Scores of two models at random."""

import torch
from torch import Tensor

from fedsim.components.decoder._steering import Mode

MODES: tuple[Mode, ...] = ("mean", "ratio", "newton", "search")


def random_scores(count: int, tokens: int = 50, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    tuned = 2 * torch.randn(count, tokens, generator=source).double()
    base = tuned + torch.randn(count, tokens, generator=source).double()
    return tuned, base, torch.multinomial(tuned.softmax(-1), 1, generator=source)[:, 0]
