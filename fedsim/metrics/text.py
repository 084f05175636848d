"""Accuracy of recovered text: correct tokens, exact sentences, ROUGE, and the set of words.

Paper: Lin 2004, "ROUGE: a package for automatic evaluation of summaries" (no arXiv id), equations 1 to 4, with beta = 1
and one reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Batch, Reconstruction, Tokenizer
from fedsim.record import ItemScore

EVERY_WORD = "every_word"
_PAPER = "Lin 2004, ROUGE: a package for automatic evaluation of summaries"


class ScoredSentences(NamedTuple):
    """Scores in the order of the originals; ``order[i]`` is the guess of original i, or -1."""

    sentences: tuple[ItemScore, ...]
    order: Tensor


def common_subsequence(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(second) + 1)
    for element in first:
        before = 0
        for index, token in enumerate(second, 1):
            before, lengths[index] = (
                lengths[index],
                before + 1 if element == token else max(lengths[index - 1 : index + 1]),
            )
    return lengths[-1]


@registry.metric(
    "exact",
    title="every token right",
    summary="of a sentence: whether every token is right and none is too many",
    over="item",
    form="flag",
    digits=0,
    worst=0.0,
    noun="sentence",
    threshold=0.5,
    verdict="exact",
    shown=False,
)
def exact(guess: Sequence[int], original: Sequence[int]) -> bool:
    """Return whether the tokens are equal."""
    return list(guess) == list(original)


@registry.metric(
    "token_accuracy",
    title="tokens right",
    summary="of a sentence: share of its tokens at the right place of the guess",
    over="item",
    form="percent",
    digits=0,
    statistics={"text.token_accuracy": "mean"},
    worst=0.0,
    noun="sentence",
)
def token_accuracy(guess: Sequence[int], original: Sequence[int]) -> float:
    """Return the share of the original's tokens that the guess has at the same position, in [0, 1]."""
    right = sum(token == true_token for token, true_token in zip(guess, original, strict=False))
    return right / len(original) if original else 1.0


def rouge_n(guess: Sequence[object], original: Sequence[object], size: int) -> float:
    """Return 2 C / (guessed + original n-grams) of `size` words, in [0, 1], with C their common n-grams as multisets.

    1 if neither side has any.
    """
    grams = [Counter(zip(*(words[start:] for start in range(size)), strict=False)) for words in (guess, original)]
    total = sum(sum(gram.values()) for gram in grams)
    return 2.0 * sum((grams[0] & grams[1]).values()) / total if total else 1.0


@registry.metric(
    "rouge_1",
    title="ROUGE-1",
    summary="of a sentence: F-measure of words",
    paper=_PAPER,
    over="item",
    statistics={"text.rouge_1": "mean"},
    worst=0.0,
    noun="sentence",
    compared=False,
)
def rouge_1(guess: Sequence[object], original: Sequence[object]) -> float:
    """Return `rouge_n` of single words."""
    return rouge_n(guess, original, 1)


@registry.metric(
    "rouge_2",
    title="ROUGE-2",
    summary="of a sentence: F-measure of pairs of words",
    paper=_PAPER,
    over="item",
    statistics={"text.rouge_2": "mean"},
    worst=0.0,
    noun="sentence",
    compared=False,
)
def rouge_2(guess: Sequence[object], original: Sequence[object]) -> float:
    """Return `rouge_n` of pairs of words."""
    return rouge_n(guess, original, 2)


@registry.metric(
    "rouge_l",
    title="ROUGE-L",
    summary="of a sentence: F-measure of the longest common subsequence of words",
    paper=_PAPER,
    over="item",
    statistics={"text.rouge_l": "mean"},
    worst=0.0,
    noun="sentence",
    leads=True,
)
def rouge_l(guess: Sequence[object], original: Sequence[object]) -> float:
    """Return 2 LCS / (guessed + original words), in [0, 1]: the harmonic mean of recall and precision."""
    total = len(guess) + len(original)
    return 2.0 * common_subsequence(guess, original) / total if total else 1.0


@registry.metric(
    "secret_read",
    title="secrets read",
    summary="of a sentence with a planted secret: whether any guess of the update has it",
    over="item",
    form="flag",
    digits=0,
    statistics={"text.secrets": "share"},
    worst=0.0,
    noun="sentence",
    is_success_count=True,
)
def secret_read(secret: str, guesses: Sequence[str]) -> bool:
    """Return whether any text contains the secret."""
    return any(secret in guess for guess in guesses)


@registry.metric(
    "words_found",
    title="words found",
    summary="of the sentences of an update: share of their words that the guess contains, at any position",
    over="update",
    form="percent",
    digits=0,
    statistics={"text.words_found": "mean"},
    noun="sentence",
)
def words_found(guessed: Collection[int], original: Collection[int]) -> float:
    """Return the share of the original tokens that were guessed, in [0, 1]; 0 without originals."""
    return len({*original} & {*guessed}) / len({*original}) if original else 0.0


@registry.metric(
    "words_right",
    title="found words that are right",
    summary="of the guess of an update: share of its words that the sentences contain, at any position",
    over="update",
    form="percent",
    digits=0,
    statistics={"text.words_right": "mean"},
    noun="sentence",
)
def words_right(guessed: Collection[int], original: Collection[int]) -> float:
    """Return the share of the guessed tokens that are among the original tokens, in [0, 1]; 0 without guesses."""
    return words_found(original, guessed)


@registry.metric(
    EVERY_WORD,
    title="every word read",
    summary="of an update with certain words: whether they are exactly its words",
    over="update",
    form="flag",
    digits=0,
    statistics={"text.every_word": "share"},
    noun="sentence",
    is_success_count=True,
)
def is_every_word(read: Tensor, batch: Batch, tokenizer: Tokenizer) -> bool:
    """Return whether tokens (K,) are exactly the set of tokens of the originals (B, T).

    Padding is ignored on both sides.
    """
    return {*read.tolist()} - {tokenizer.padding} == _words(batch, tokenizer)


def score_sentences(
    reconstruction: Reconstruction, batch: Batch, tokenizer: Tokenizer, planted: Sequence[str] = ()
) -> ScoredSentences:
    """Score each sentence of a batch against its guess, matched for the most correct tokens in total.

    Args:
        reconstruction: guesses (N, T), negative after the end; N may be below or above the batch size.
        batch: the originals (B, T), padded at the end.
        tokenizer: decodes both.
        planted: secret spans that sentences may contain.
    """
    originals = [_tokens(row, tokenizer.padding) for row in batch.inputs.tolist()]
    guesses = [[token for token in row if token >= 0] for row in reconstruction.inputs.tolist()]
    gains = np.array([[_gain(guess, original) for guess in guesses] for original in originals])
    order = _match(gains.reshape(len(originals), len(guesses)))
    rows = (
        (original, guesses[number] if number >= 0 else []) for original, number in zip(originals, order, strict=True)
    )
    scored = (_score(index, guess, original, tokenizer) for index, (original, guess) in enumerate(rows))
    texts = [tokenizer.decode(guess) for guess in guesses] if planted else []
    return ScoredSentences(tuple(_with_secret(sentence, planted, texts) for sentence in scored), torch.tensor(order))


def _with_secret(sentence: ItemScore, planted: Sequence[str], guesses: Sequence[str]) -> ItemScore:
    secret = next((span for span in planted if span and span in (sentence.text or "")), None)
    if secret is None:
        return sentence
    read = sentence.with_values({"secret_read": float(secret_read(secret, guesses))})
    return read.model_copy(update={"secret": secret})


def score_words(reconstruction: Reconstruction, batch: Batch, tokenizer: Tokenizer) -> dict[str, float]:
    """Return `words_found` and `words_right` of the tokens of all guesses, by name.

    Args:
        reconstruction: guesses (N, T), negative after the end.
        batch: the originals (B, T), padded at the end.
        tokenizer: provides the padding token.
    """
    original = _words(batch, tokenizer)
    guessed = {token for token in reconstruction.inputs.flatten().tolist() if token >= 0}
    return {"words_found": words_found(guessed, original), "words_right": words_right(guessed, original)}


def _words(batch: Batch, tokenizer: Tokenizer) -> set[int]:
    return {token for row in batch.inputs.tolist() for token in _tokens(row, tokenizer.padding)}


def _tokens(inputs: list[int], padding: int) -> list[int]:
    """Return the tokens before the padding at the end."""
    length = len(inputs)
    while length and inputs[length - 1] == padding:
        length -= 1
    return inputs[:length]


def _gain(guess: Sequence[int], original: Sequence[int]) -> float:
    """Among guesses with equally many correct tokens, prefer those with fewer wrong tokens."""
    return token_accuracy(guess, original) - 1e-6 * abs(len(guess) - len(original))


def _match(gains: np.ndarray) -> list[int]:
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    rows, columns = linear_sum_assignment(gains, maximize=True)
    chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return [chosen.get(row, -1) for row in range(len(gains))]


def _score(index: int, guess: list[int], original: list[int], tokenizer: Tokenizer) -> ItemScore:
    text, guessed = tokenizer.decode(original), tokenizer.decode(guess)
    words = guessed.split(), text.split()
    values = {
        "exact": float(exact(guess, original)),
        "token_accuracy": token_accuracy(guess, original),
        "rouge_1": rouge_1(*words),
        "rouge_2": rouge_2(*words),
        "rouge_l": rouge_l(*words),
    }
    return ItemScore(index=index, values=values, text=text, guess=guessed, is_missing=not guess)
