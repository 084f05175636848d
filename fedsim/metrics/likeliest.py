"""The likeliest filling of a secret's form, by uniform-cost search (Dijkstra) over the tokens that fit.

    argmin over s in R of -sum_i log2 Pr(s_i | s_1, ..., s_i-1)

Every further token costs at least nothing, so that the cheapest beginning is gone on with until the cheapest is whole:
no other filling can be likelier. Paper: Carlini et al. 2019, arXiv 1802.08232, whose extraction is this search. A
filling counts by the tokens that the tokenizer makes of it; other tokens with the same text are no filling.
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
    """What the search found.

    Attributes:
        text: prompt and filling.
        bits: -log2 of the probability of what the search chose, behind what every filling begins with.
        seen: beginnings that the model was shown.
    """

    text: str
    bits: float
    seen: int


class _Beginning(NamedTuple):
    """Tokens, what they cost in bits, and how many signs of the rest they fill; ordered by cost, then by tokens."""

    bits: float
    tokens: tuple[int, ...]
    filled: int


@torch.no_grad()
def likeliest(model: nn.Module, prompt: str, form: str, tokenizer: Tokenizer, most: int) -> Likeliest | None:
    """Return the filling of a form with the lowest log-perplexity behind a prompt; None where the search gave up.

    Args:
        model: tokens (B, T) to scores of the next token (B, T, V); no token sees those behind it.
        prompt: the beginning of the sentence.
        form: what is behind it; ``#`` stands for a digit and ``?`` for a small letter.
        tokenizer: of the model.
        most: how many beginnings the model is shown at most.
    """
    known = _known(prompt, form, tokenizer)
    rest = (prompt + form)[len(tokenizer.decode(known)) :]
    start = len(prompt) + len(form) - len(rest)
    signs = [SIGNS.get(sign, sign) if start + place >= len(prompt) else sign for place, sign in enumerate(rest)]
    fitting = _fitting(signs, tokenizer)
    waiting, seen = [_Beginning(0.0, (), 0)], 0
    while waiting and seen < most:
        chosen: list[_Beginning] = []
        while waiting and len(chosen) < min(_AT_ONCE, most - seen) and waiting[0].filled < len(rest):
            chosen.append(heappop(waiting))
        if not chosen:
            whole = heappop(waiting)
            text = tokenizer.decode([*known, *whole.tokens])
            if tokenizer.encode(text) == [*known, *whole.tokens]:
                return Likeliest(text, whole.bits, seen)
            continue
        seen += len(chosen)
        for beginning, bits in zip(chosen, _next_bits(model, known, chosen), strict=True):
            for token, length in fitting[beginning.filled]:
                heappush(
                    waiting,
                    _Beginning(
                        beginning.bits + float(bits[token]), (*beginning.tokens, token), beginning.filled + length
                    ),
                )
    return None


def _known(prompt: str, form: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that all fillings begin with, the last of the prompt's left out where one may go on in it."""
    known = tokenizer.encode(prompt)
    for number in (0, space_of(form) - 1):
        known = known[: common_beginning(known, tokenizer.encode(prompt + fill(form, number)))]
    return known


def _fitting(signs: Sequence[str], tokenizer: Tokenizer) -> list[list[tuple[int, int]]]:
    """Return, of every place of the rest, the tokens whose text may stand there, with the lengths of their texts."""
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
    """Return -log2 of the probability of every token behind each beginning, shape (N, V)."""
    rows = [[*known, *beginning.tokens] for beginning in chosen]
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    last: Tensor = model(tokens)[torch.arange(len(rows)), ends]
    return (-last.double().log_softmax(-1) / math.log(2.0)).numpy()
