"""The law of short texts by enumeration, and the chi-square test of drawn ones against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import torch
from scipy.stats import chi2
from torch import nn

from fedsim.components.decoder._odds import DrawConfig

MISTAKE = 1e-4  # chance that the test fails although draws are right; seeds are fixed, so it fails never or ever
_FEWEST = 5  # expected draws of a cell, below which its count is no normal variable; rarer texts share a cell


def law(
    model: nn.Module, prompt: Sequence[int], vocabulary: int, length: int, config: DrawConfig
) -> dict[tuple[int, ...], float]:
    """Return the probability of every text of a length behind a prompt, read in one batch without anything kept."""
    texts = list(product(range(vocabulary), repeat=length))
    with torch.no_grad():
        scores = model(torch.tensor([[*prompt, *text] for text in texts]))
    odds = config.odds(scores[:, len(prompt) - 1 : -1])
    odds = odds / odds.sum(-1, keepdim=True)
    chosen = odds.gather(-1, torch.tensor(texts)[..., None])[..., 0]
    return dict(zip(texts, chosen.prod(-1).tolist(), strict=True))


def follows(drawn: Sequence[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> bool:
    """Say whether drawn texts pass the chi-square test of a law."""
    counts = Counter(drawn)
    assert all(expected[text] > 0 for text in counts), "a text that cannot be"
    cells = sorted(expected.items(), key=lambda own: -own[1])
    common = [(counts[text], len(drawn) * p) for text, p in cells if len(drawn) * p >= _FEWEST]
    rest = (len(drawn) - sum(own for own, _ in common), len(drawn) - sum(own for _, own in common))
    if rest[1] >= _FEWEST:
        common.append(rest)
    statistic = sum((found - mean) ** 2 / mean for found, mean in common)
    return statistic <= float(chi2.isf(MISTAKE, len(common) - 1))
