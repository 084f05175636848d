"""word-readout: infer the words of a batch from the rows of two gradients, without a search.

First words of sentences are in the input but never a target; tokens after their ends are a target but never in the
input. For every attack on a text the record gives the recovered words and their precision. Of a model that fills in
masked positions, the embedding shows the visible words and the output layer the masked words; the mask token is no
word. Counts are estimates, since hidden states of different positions are only approximately orthogonal. Under noise
below the size of the rows the outlier rows are used.

Idea: nonzero rows of the embedding's gradient are the input tokens. Outlying rows of the output layer's gradient are
    the next tokens; their norms give the counts, and sentence lengths.
Equation: token v is in the input if row v of dL/dE is not 0; |row c of dL/dW| = |h| / (B n) for a word that follows
    once.
Assumes: honest-but-curious server, a single gradient or update in which at least one of the two layers is shared.
Recovers: the set of words, estimated counts and lengths; first words, and tokens after the ends; not the order. Of a
    masked language model: visible and masked words, each once.
    Dropout changes entries of rows, not which rows are zero, so it protects nothing here.
Fails: tied weights, where input tokens and next tokens cannot be distinguished; noise as large as the rows.
Source: the zero rows: Gupta et al. 2022, arXiv 2205.08514; the counts: after arXiv 2105.09369.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.text._examples import TAGS
from attacks.text._words import (
    Words,
    counts_of,
    embedding_of,
    following_of,
    lengths_of,
    pad_to_rows,
    words_of,
)
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, Step
from fedsim.tasks.core.sentences import READ_WORDS

_COUNTED_ONCE = "the model fills in masked places, each weighted by an unknown rate: every word is named once"


@final
@attack(
    "word-readout",
    summary="the set of a batch's words, from rows of gradients",
    tier="core",
    paper="2205.08514",
    fidelity="variant",
    deviates="its bag of words without its beam search; counts are added",
    paper_steps=(
        ("words from nonzero rows of the embedding's gradient", "attacks.text._words.words_of"),
        ("beam search for sentences with a language model", ""),
    ),
)
class WordReadout(Attack[Config]):
    """Reads the rows of two gradients."""

    effort: ClassVar[Effort] = "algebra"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    example: ClassVar[Tables] = TAGS

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without an embedding, and updates that hold neither of the two layers."""
        try:
            name, _ = embedding_of(observation)
        except NotApplicable as reason:
            return str(reason)
        if f"{name}.weight" not in observation.update.tensors and following_of(observation) is None:
            return f"neither the gradient of '{name}' nor that of an output layer is shared"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few gradients, and no exact answer."""
        return outlook_of(observation, 2.0, 0.01, "the result is words without their order")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Return the tokens, repeated by their count, in rows of sentence length that are not sentences."""
        words = words_of(observation)
        fills_in = mask_token(observation.model) is not None
        tokens = words.next_tokens if words.read is None else words.read
        if fills_in and words.read is not None and words.next_tokens is not None:
            tokens = torch.cat((words.read, words.next_tokens)).unique()
        if tokens is None or not len(tokens):
            return no_guess(observation, "no row of the gradient is distinct: all tokens occur, or noise hides them")
        lengths = lengths_of(observation)
        counts = torch.ones_like(tokens) if fills_in else _counts(observation, tokens, lengths)
        guess = pad_to_rows(tokens.repeat_interleave(counts), observation)
        on_step(Step(0, 1, 1, 0.0, 0.0, guess))
        diagnostics = {"tokens found": float(len(tokens)), "shortest sentence": float(lengths[0]),
                 "longest sentence": float(lengths[-1])}  # fmt: skip
        if words.read is not None and words.next_tokens is not None and not words.is_tied:
            diagnostics |= _told_apart(words.read, words.next_tokens, fills_in)
        notes = (*_notes(words), _COUNTED_ONCE) if fills_in else _notes(words)
        certain = {READ_WORDS: words.read} if words.read is not None and words.is_exact else {}
        return Reconstruction.of(
            guess,
            objective=0.0,
            iterations=1,
            stop_reason="read off rows",
            notes=notes,
            diagnostics=diagnostics,
            extras=certain,
        )


def _told_apart(read: Tensor, following: Tensor, fills_in: bool) -> dict[str, float]:
    if fills_in:
        return {"visible tokens": float(len(read)), "masked tokens": float(len(following))}
    return {
        "tokens that never follow": float((~torch.isin(read, following)).sum()),
        "tokens that only follow": float((~torch.isin(following, read)).sum()),
    }


def _counts(observation: Observation, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the count of each token in the batch, shape (K,): its count as a next token, at least 1."""
    counts = torch.ones(len(tokens), dtype=torch.long)
    following = following_of(observation)
    if following is None:
        return counts
    for token, count in zip(following.tokens.tolist(), counts_of(following, lengths).tolist(), strict=True):
        counts[tokens == token] = count
    return counts


def _notes(words: Words) -> tuple[str, ...]:
    order = "the order of the tokens is not known: rows are not sentences"
    if words.is_tied:
        return order, "input and output layer share their weights: input tokens and next tokens cannot be separated"
    if words.read is None:
        return order, "the embedding's gradient is not shared: these tokens are next tokens (labels)"
    if not words.is_exact:
        return order, "no row is exactly zero: these rows are the largest"
    return (order,)
