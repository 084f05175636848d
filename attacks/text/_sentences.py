"""Measure how well sentences explain a gradient. The unobserved token after each sentence is found by trial.

A truncated sentence is followed by a word outside the sentence, any other sentence by the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from attacks.core.gradient_distance import gradient_distance
from attacks.text._words import Words, predicts_words
from fedsim.core.nets.losses import IGNORED, is_cross_entropy
from fedsim.core.types import Masks, Observation

_MOST_TRIED = 64

LeftT = TypeVar("LeftT", float, tuple[float, float])


class Completed(NamedTuple):
    """Sentences with the tokens that follow them.

    Attributes:
        distance: 1 - cosine between their gradient and the observed gradient, over all shared tensors.
        last: the token after each sentence, shape (B,).
    """

    distance: float
    last: Tensor


def complete(observation: Observation, sentences: Tensor, words: Words, masks: Masks) -> Completed:
    """Return the smallest gradient distance of sentences over the tokens after them, by coordinate search.

    Args:
        observation: a single gradient.
        sentences: tokens (B, T), padded with -1.
        words: the tokens that the gradient shows.
        masks: masks of the dropout sites, or none for forward passes without dropout.
    """
    if observation.labels is not None:
        empty = torch.zeros(len(sentences), dtype=torch.long)
        return Completed(distance_of(observation, sentences, empty, masks), empty)
    least, last = find_final_tokens(
        observation, words, len(sentences), lambda last: distance_of(observation, sentences, last, masks)
    )
    return Completed(least, last)


def find_final_tokens(
    observation: Observation, words: Words, count: int, left: Callable[[Tensor], LeftT]
) -> tuple[LeftT, Tensor]:
    """Return the smallest residual, and the tokens after `count` sentences that give it.

    Tokens are tried one after the other, sentence by sentence.

    Args:
        observation: one or several gradients.
        words: the tokens that the gradient shows.
        count: B.
        left: maps tokens (B,) to their residual.
    """
    candidates = possible_next(observation, words)[:_MOST_TRIED]
    last = candidates[:1].repeat(count)
    least = left(last)
    for row in range(count):
        for token in candidates.tolist():
            ends = last.clone()
            ends[row] = token
            if (remaining := left(ends)) < least:
                least, last = remaining, ends
    return least, last


def distance_of(observation: Observation, sentences: Tensor, last: Tensor, masks: Masks) -> float:
    """Return 1 - cosine between the observed gradient and that of sentences (B, T) followed by `last` (B,)."""
    if not masks:
        observation = replace(observation, sites=())
    if observation.labels is not None:
        return gradient_distance(observation, sentences.clamp_min(0), observation.labels, masks)
    return gradient_distance(observation, *with_labels(sentences, last), masks)


def explains(observation: Observation) -> bool:
    """Return whether the gradient of sentences can be computed: labels are granted, or are the sentences' next words.

    It cannot if the task draws random values in every step, such as masked positions.
    """
    if observation.task.draws:
        return False
    return observation.labels is not None or (predicts_words(observation) and has_cross_entropy(observation))


def has_cross_entropy(observation: Observation) -> bool:
    """Return whether the clients' loss is the mean cross-entropy of next words."""
    return is_cross_entropy(observation.loss, (2, observation.spec.shape[0], observation.spec.classes))


def possible_next(observation: Observation, words: Words) -> Tensor:
    """Return the tokens that may follow a sentence; next tokens that are not input tokens come first."""
    if words.next_tokens is None or not len(words.next_tokens):
        return torch.arange(observation.spec.classes)
    if words.read is None:
        return words.next_tokens
    is_read = torch.isin(words.next_tokens, words.read)
    return torch.cat((words.next_tokens[~is_read], words.next_tokens[is_read]))


def with_labels(sentences: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and next tokens (B, T) of sentences (B, T), padded with -1, followed by `last` (B,)."""
    lengths = (sentences >= 0).sum(1)
    longer = torch.cat((sentences, torch.full((len(sentences), 1), -1)), 1)
    longer[torch.arange(len(sentences)), lengths] = last
    labels = longer[:, 1:].clone()
    labels[labels < 0] = IGNORED
    return sentences.clamp_min(0), labels
