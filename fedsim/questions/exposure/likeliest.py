"""Most likely value of a secret's form, by uniform-cost search (Dijkstra) over the matching tokens.

    argmin over s in R of -sum_i log2 Pr(s_i | s_1, ..., s_i-1)

Costs of further tokens are non-negative, so the cheapest prefix is extended until the cheapest entry is complete: no
other value can be more likely. Paper: Carlini et al. 2019, arXiv 1802.08232, whose extraction is this search. A value
counts only with the tokenizer's own tokens; other tokenisations of the same text are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.types import Tokenizer
from fedsim.metrics.exposure import SIGNS, common_beginning, fill, space_of

_AT_ONCE = 32


class Likeliest(NamedTuple):
    """Result of the search.

    Attributes:
        text: prompt and value.
        bits: -log2 of the probability of the value's tokens, after the common prefix of all values.
        evaluated_prefixes: number of prefixes that the model evaluated.
    """

    text: str
    bits: float
    evaluated_prefixes: int


class _Beginning(NamedTuple):
    """Tokens, their cost in bits, and the number of filled characters; ordered by cost, then by tokens."""

    bits: float
    tokens: tuple[int, ...]
    filled_characters: int


@torch.no_grad()
def likeliest(model: nn.Module, prompt: str, form: str, tokenizer: Tokenizer, limit: int) -> Likeliest | None:
    """Return the value of a form with the lowest log-perplexity after a prompt; None if the search gave up.

    Args:
        model: causal model, maps tokens (B, T) to scores of the next token (B, T, V).
        prompt: the prefix of the sentence.
        form: format after the prompt; ``#`` is a digit and ``?`` a small letter.
        tokenizer: the model's tokenizer.
        limit: maximum number of prefixes that the model evaluates.
    """
    known = _common_prefix(prompt, form, tokenizer)
    remainder = (prompt + form)[len(tokenizer.decode(known)) :]
    start = len(prompt) + len(form) - len(remainder)
    signs = [SIGNS.get(sign, sign) if start + place >= len(prompt) else sign for place, sign in enumerate(remainder)]
    fitting = _fitting_tokens(signs, tokenizer)
    waiting, seen = [_Beginning(0.0, (), 0)], 0
    while waiting and seen < limit:
        chosen: list[_Beginning] = []
        while waiting and len(chosen) < min(_AT_ONCE, limit - seen) and waiting[0].filled_characters < len(remainder):
            chosen.append(heappop(waiting))
        if not chosen:
            whole = heappop(waiting)
            text = tokenizer.decode([*known, *whole.tokens])
            if tokenizer.encode(text) == [*known, *whole.tokens]:
                return Likeliest(text, whole.bits, seen)
            continue
        seen += len(chosen)
        for beginning, bits in zip(chosen, _next_bits(model, known, chosen), strict=True):
            for token, length in fitting[beginning.filled_characters]:
                heappush(
                    waiting,
                    _Beginning(
                        beginning.bits + float(bits[token]),
                        (*beginning.tokens, token),
                        beginning.filled_characters + length,
                    ),
                )
    return None


def _common_prefix(prompt: str, form: str, tokenizer: Tokenizer) -> list[int]:
    """Return the common token prefix of all values, without the prompt's last token if a value may merge with it."""
    known = tokenizer.encode(prompt)
    for number in (0, space_of(form) - 1):
        known = known[: common_beginning(known, tokenizer.encode(prompt + fill(form, number)))]
    return known


def _fitting_tokens(signs: Sequence[str], tokenizer: Tokenizer) -> list[list[tuple[int, int]]]:
    """Return for each position of the remaining form the tokens with matching text, with their text lengths."""
    texts = [(token, tokenizer.decode([token])) for token in range(tokenizer.vocabulary)]
    return [
        [
            (token, len(text))
            for token, text in texts
            if 0 < len(text) <= len(signs) - place
            and all(sign in options for sign, options in zip(text, signs[place:], strict=False))
        ]
        for place in range(len(signs))
    ]


def _next_bits(model: nn.Module, known: Sequence[int], chosen: Sequence[_Beginning]) -> np.ndarray:
    """Return -log2 of the probability of each next token after each prefix, shape (N, V)."""
    rows = [[*known, *beginning.tokens] for beginning in chosen]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    last: Tensor = model(tokens)[torch.arange(len(rows)), ends]
    return (-last.double().log_softmax(-1) / math.log(2.0)).numpy()
