"""How much a trained language model remembers of a secret: exposure, and whether greedy decoding gives it away.

    exposure(s) = log2 |R| - log2 rank(s),  R: sentences of the same form, ranked by the model's log-perplexity

Paper: Carlini, Liu, Erlingsson, Kos, Song 2019, arXiv 1802.08232, section 4. Where R is small it is enumerated. Else
the rank is taken among n random sentences of the form and the secret itself, which is exact for that draw and fits no
distribution: the exposure is then at most log2(n + 1) bits. Of a secret that the model never saw the rank is uniform,
so that the exposure exceeds t bits with probability 2^-t, and is log2 e = 1.44 bits on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_lowercase, digits
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core.losses import IGNORED, per_example
from fedsim.core.types import Tokenizer

SIGNS = {"#": digits, "?": ascii_lowercase}
_LOGITS_AT_ONCE = 2**24


class Alternatives(NamedTuple):
    """Other fillings of a secret's form, and whether they are all there are."""

    texts: tuple[str, ...]
    is_complete: bool


def space_of(form: str) -> int:
    """Return how many fillings a form has; ``#`` stands for a digit and ``?`` for a small letter."""
    return math.prod(len(SIGNS[sign]) for sign in form if sign in SIGNS)


def filled(form: str, number: int) -> str:
    """Return filling `number` of a form, counted from 0 as the text sorts."""
    text: list[str] = []
    for sign in reversed(form):
        signs = SIGNS.get(sign)
        if signs is None:
            text.append(sign)
            continue
        number, place = divmod(number, len(signs))
        text.append(signs[place])
    return "".join(reversed(text))


def alternatives(form: str, secret: str, most: int, generator: np.random.Generator) -> Alternatives:
    """Return other fillings of a form: all of them if they are at most `most`, else so many random ones, no two alike.

    Args:
        form: see `space_of`.
        secret: the filling that is left out.
        most: how many, at least 1.
        generator: source of the draw.
    """
    space = space_of(form)
    if space - 1 <= most:
        texts = (filled(form, number) for number in range(space))
        return Alternatives(tuple(text for text in texts if text != secret), True)
    drawn = (filled(form, number) for number in generator.choice(space, most + 1, replace=False).tolist())
    return Alternatives(tuple(text for text in drawn if text != secret)[:most], False)


@torch.no_grad()
def log_perplexities(model: nn.Module, sentences: Sequence[Sequence[int]], tokenizer: Tokenizer) -> Tensor:
    """Return -log2 of the probability of each sentence behind its first token, in bits, shape (N,), double precision.

    Args:
        model: tokens (B, T) to scores of the next token (B, T, V); no token sees those behind it.
        sentences: tokens, two or more each.
        tokenizer: fills up the shorter ones at the end.
    """
    found: list[Tensor] = []
    longest = max(map(len, sentences))
    tokens, rows = _filled_up(sentences, longest, tokenizer.padding), _rows_at_once(longest, tokenizer)
    labels = _filled_up(sentences, longest, IGNORED)[:, 1:]
    for inputs, own in zip(tokens[:, :-1].split(rows), labels.split(rows), strict=True):
        counts = (own != IGNORED).sum(1)
        found.append(per_example(model(inputs), own).double() * counts / math.log(2.0))
    return torch.cat(found)


def exposure(own: float, others: Tensor) -> float:
    """Return log2 |R| - log2 rank, in bits, where R holds the secret and all others; half of the equals are before it.

    Args:
        own: log-perplexity of the secret.
        others: those of the other sentences of its form, shape (N,).
    """
    rank = 1.0 + float((others < own).sum()) + 0.5 * float((others == own).sum())
    return math.log2(len(others) + 1) - math.log2(rank)


@runtime_checkable
class Writer(Protocol):
    """A model that keeps what it made of earlier tokens while it writes on."""

    def continued(self, tokens: Tensor, length: int) -> Tensor:
        """Return the next `length` tokens (B, length) behind beginnings (B, t), each the likeliest."""
        ...


@torch.no_grad()
def greedy(model: nn.Module, prompts: Sequence[Sequence[int]], count: int, tokenizer: Tokenizer) -> list[list[int]]:
    """Return `count` tokens behind each prompt, always the likeliest; of equals, the one numbered first.

    What a `Writer` writes is taken if one pass over all of it agrees: what is done to single places of a text, as when
    codes are forced there, is lost on a model that is shown one new token at a time.

    Args:
        model: as for `log_perplexities`.
        prompts: tokens, one or more each.
        count: how many tokens to go on.
        tokenizer: fills up the shorter prompts at the end.
    """
    if not isinstance(model, Writer):
        return _recomputed(model, prompts, count, tokenizer)
    written: dict[int, list[int]] = {}
    for length in {len(prompt) for prompt in prompts}:
        places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
        for own in torch.tensor(places).split(_rows_at_once(length + count, tokenizer)):
            alike = [prompts[place] for place in own.tolist()]
            written.update(zip(own.tolist(), _kept(model, alike, count, tokenizer), strict=True))
    return [written[place] for place in range(len(prompts))]


def _kept(model: nn.Module, prompts: Sequence[Sequence[int]], count: int, tokenizer: Tokenizer) -> list[list[int]]:
    assert isinstance(model, Writer)
    tokens = torch.tensor(prompts)
    written = model.continued(tokens, count)
    again = model(torch.cat((tokens, written), 1))[:, tokens.shape[1] - 1 : -1].argmax(-1)
    return written.tolist() if torch.equal(written, again) else _recomputed(model, prompts, count, tokenizer)


def _recomputed(
    model: nn.Module, prompts: Sequence[Sequence[int]], count: int, tokenizer: Tokenizer
) -> list[list[int]]:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    total = int(lengths.max()) + count
    tokens, rows = _filled_up(prompts, total, tokenizer.padding), _rows_at_once(total, tokenizer)
    for start in range(0, len(prompts), rows):
        own, ends = tokens[start : start + rows], lengths[start : start + rows]
        every = torch.arange(len(own))
        for step in range(count):
            scores = model(own[:, : int(ends.max()) + step])
            own[every, ends + step] = scores[every, ends + step - 1].argmax(-1)
    return [row[length : length + count] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]


def common_beginning(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts have in common before they differ: a prompt's last one may be cut otherwise."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (own, other) in enumerate(pairs) if own != other), min(len(first), len(second)))


def _filled_up(sentences: Sequence[Sequence[int]], length: int, padding: int) -> Tensor:
    return torch.tensor([[*own, *[padding] * (length - len(own))] for own in sentences])


def _rows_at_once(length: int, tokenizer: Tokenizer) -> int:
    """Return how many rows of `length` tokens to score together, so that the scores need not much memory."""
    return max(1, _LOGITS_AT_ONCE // (length * tokenizer.vocabulary))
