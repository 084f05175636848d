"""Memorisation of a secret by a trained language model: its exposure among alternatives of the same form.

    exposure(s) = log2 |R| - log2 rank(s),  R: sentences of the same form, ranked by the model's log-perplexity

Paper: Carlini, Liu, Erlingsson, Kos, Song 2019, arXiv 1802.08232, section 4. A small R is enumerated. Otherwise the
rank is computed among n random sentences of the form and the secret itself, which is exact for this sample, without
fitting a distribution: the exposure is then at most log2(n + 1) bits. For a secret that the model never saw the
rank is uniform, so the exposure exceeds t bits with probability 2^-t, and is log2 e = 1.44 bits on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, digits
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.nets.losses import IGNORED, compute_example_losses
from fedsim.core.nets.masked_positions import exclude_mask_token, mask_token
from fedsim.core.registry import metric
from fedsim.core.types import SecretKind, Tokenizer
from fedsim.metrics.statistics import mean_interval, wilson
from fedsim.record import Interval

SIGNS = {"#": digits, "?": ascii_lowercase}
_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class SecretScore:
    """Memorisation of a planted secret by the trained model.

    Attributes:
        kind: canary, identity or address.
        text: the whole secret.
        repetitions: number of occurrences in the training text, 0 for a control that was left out.
        uses: number of times it was in a batch of an update that counted.
        exposure: in bits, among `candidates` alternatives.
        candidates: number of alternatives.
        is_exact: whether all alternatives were ranked.
        guess: the model's continuation of the secret's prefix.
        extracted: whether the guess is the secret.
        likeliest: the most likely sentence of the form, found by search; None without a search or result.
        emission: unbiased estimates, one per run, of the probability that the model generates any string of the form
            after the prefix; () if not estimated.
    """

    kind: SecretKind
    text: str
    repetitions: int
    uses: int
    exposure: float
    candidates: int
    is_exact: bool
    guess: str
    extracted: bool
    likeliest: str | None = None
    emission: tuple[float, ...] = ()


class Alternatives(NamedTuple):
    """Alternative values of a secret's form, and whether they are complete."""

    texts: tuple[str, ...]
    is_complete: bool


def space_of(form: str) -> int:
    """Return the number of values of a form; ``#`` is a digit and ``?`` a small letter."""
    return math.prod(len(SIGNS[sign]) for sign in form if sign in SIGNS)


def fill(form: str, number: int) -> str:
    """Return value `number` of a form, from 0 in lexicographic order."""
    text: list[str] = []
    for sign in reversed(form):
        signs = SIGNS.get(sign)
        if signs is None:
            text.append(sign)
            continue
        number, place = divmod(number, len(signs))
        text.append(signs[place])
    return "".join(reversed(text))


def alternatives(form: str, secret: str, limit: int, generator: np.random.Generator) -> Alternatives:
    """Return alternative values of a form: all if there are at most `limit`, else `limit` distinct random values.

    Args:
        form: as in `space_of`.
        secret: the value to exclude.
        limit: maximum number, at least 1.
        generator: random source.
    """
    space = space_of(form)
    if space - 1 <= limit:
        texts = (fill(form, number) for number in range(space))
        return Alternatives(tuple(text for text in texts if text != secret), True)
    fillings = (fill(form, number) for number in generator.choice(space, limit + 1, replace=False).tolist())
    return Alternatives(tuple(text for text in fillings if text != secret)[:limit], False)


@torch.no_grad()
def log_perplexities(model: nn.Module, sentences: Sequence[Sequence[int]], tokenizer: Tokenizer) -> Tensor:
    """Return -log2 of the probability of each sentence after its first token, in bits, shape (N,), double precision.

    Args:
        model: causal model, maps tokens (B, T) to scores of the next token (B, T, V); or, if it has a mask token, to
            scores of the token at each position, evaluated with this and all later positions masked.
        sentences: token ids, at least two per sentence.
        tokenizer: provides the padding token.
    """
    mask = mask_token(model)
    if mask is not None:
        return _masked_log_perplexities(model, sentences, tokenizer, mask)
    bits: list[Tensor] = []
    longest = max(map(len, sentences))
    tokens, rows = _fill_up(sentences, longest, tokenizer.padding), _rows_at_once(longest, tokenizer)
    labels = _fill_up(sentences, longest, IGNORED)[:, 1:]
    for inputs, part_labels in zip(tokens[:, :-1].split(rows), labels.split(rows), strict=True):
        counts = (part_labels != IGNORED).sum(1)
        bits.append(compute_example_losses(model(inputs), part_labels).double() * counts / math.log(2.0))
    return torch.cat(bits)


@torch.no_grad()
def _masked_log_perplexities(
    model: nn.Module, sentences: Sequence[Sequence[int]], tokenizer: Tokenizer, mask: int
) -> Tensor:
    """Return the same for an unmasking model, from left to right; no padding, which would be attended to."""
    bits = torch.zeros(len(sentences), dtype=torch.float64)
    for length in sorted(set(map(len, sentences))):
        rows = torch.tensor([row for row, sentence in enumerate(sentences) if len(sentence) == length])
        for chunk in rows.split(_rows_at_once(length, tokenizer)):
            tokens = torch.tensor([list(sentences[row]) for row in chunk.tolist()])
            for place in range(1, length):
                hidden = tokens.clone()
                hidden[:, place:] = mask
                odds = exclude_mask_token(model(hidden)[:, place], mask).double().log_softmax(-1)
                bits[chunk] -= odds.gather(1, tokens[:, place, None])[:, 0] / math.log(2.0)
    return bits


@metric(
    "exposure",
    title="exposure",
    summary="log2 of how many times likelier the secret is to be guessed first than by chance",
    over="finding",
    unit="bits",
)
def exposure(perplexity: float, alternatives: Tensor) -> float:
    """Return log2 |R| - log2 rank, in bits, where R contains the secret and all alternatives; ties count half.

    Args:
        perplexity: log-perplexity of the secret.
        alternatives: log-perplexities of the alternatives, shape (N,).
    """
    rank = 1.0 + float((alternatives < perplexity).sum()) + 0.5 * float((alternatives == perplexity).sum())
    return math.log2(len(alternatives) + 1) - math.log2(rank)


@metric(
    "emission",
    title="any of the form",
    summary="mean probability that the model writes any string of a secret's form behind its beginning",
    over="finding",
    form="percent",
    digits=2,
    limits=(0.0, None),
)
def mean_over_prefixes(
    estimates: Sequence[tuple[float, ...]], generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Return the mean over distinct prefixes with its interval; for a single prefix, the units are its runs."""
    different = list(dict.fromkeys(estimates))
    units = [[figure] for figure in different[0]] if len(different) == 1 else different
    return mean_interval(units, generator, confidence)


@metric(
    "likeliest",
    title="found by search",
    summary="share of the secrets that a search gives as the likeliest of all sentences of their form",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def share_likeliest(alike: Sequence[SecretScore], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval, n the number of secrets."""
    return wilson(sum(score.likeliest == score.text for score in alike), len(alike), confidence)


def common_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two token sequences."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (token, second) in enumerate(pairs) if token != second), min(len(first), len(second)))


def _fill_up(sentences: Sequence[Sequence[int]], length: int, padding: int) -> Tensor:
    return torch.tensor([[*sentence, *[padding] * (length - len(sentence))] for sentence in sentences])


def _rows_at_once(length: int, tokenizer: Tokenizer) -> int:
    """Return the batch size for rows of `length` tokens that bounds the memory of the scores."""
    return max(1, _LOGITS_AT_ONCE // (length * tokenizer.vocabulary))
