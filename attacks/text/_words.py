"""Infer the words of a batch from the gradients of an embedding and of an output layer, without a search.

The embedding's gradient has a row for every token, and rows of tokens that are not in the input are exactly zero. An
output layer without bias has dW_c = sum_t w_t (p_tc - [y_t = c]) h_t, with w_t = 1 / (B n) in a sentence of n tokens.
Rows of next words have outlying norms, about w_t |h_t|, which gives n. With tied weights one matrix holds the sum of
both gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import combinations_with_replacement, islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.fired_rows import has_zero_rows, outstanding_rows
from attacks.core.mean_gradient import gradient_weight
from attacks.core.tolerances import TINY
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Observation
from fedsim.models._language import TiedHead

_GAP = 100.0
_PROBES = 8
_MOST_COUNTED = 6
_SAME_WEIGHT = 0.03
_SAME_LENGTH = 0.015
_MOST_TRIED = 10_000


class Words(NamedTuple):
    """Distinct tokens of a batch, ascending.

    Attributes:
        read: input tokens, or None if the embedding's gradient is not shared.
        next_tokens: next tokens, or None if the output layer's gradient is not shared.
        is_exact: whether all other rows are exactly zero; otherwise `read` are rows above the noise.
        is_tied: whether embedding and output layer share one matrix; then both sets are the union.
    """

    read: Tensor | None
    next_tokens: Tensor | None
    is_exact: bool
    is_tied: bool


class Following(NamedTuple):
    """Next tokens (K,) and their weights in the batch's loss (K,): 1 / (B n) for a token that follows once."""

    tokens: Tensor
    weights: Tensor


def embedding_of(observation: Observation) -> tuple[str, nn.Embedding]:
    """Return name and module of the token embedding.

    Raises:
        NotApplicable: the model has no embedding of the vocabulary's size.
    """
    vocabulary = observation.spec.vocabulary or 0
    for name, module in observation.model.named_modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings >= max(vocabulary, 1):
            return name, module
    raise NotApplicable(f"the model has no embedding of {vocabulary} tokens")


def predicts_words(observation: Observation) -> bool:
    """Return whether the model is a language model: its classes are the tokens."""
    return observation.task.labels_are_inputs


def words_of(observation: Observation) -> Words:
    """Return the tokens that the gradient shows.

    Raises:
        NotApplicable: the model has no embedding of tokens.
    """
    name, _ = embedding_of(observation)
    gradient = observation.update.tensors.get(f"{name}.weight")
    read = None if gradient is None else outstanding_rows(gradient)
    mask = mask_token(observation.model)
    if read is not None and mask is not None:
        read = read[read != mask]
    is_exact = gradient is not None and has_zero_rows(gradient)
    if _is_tied(observation):
        return Words(read, read, False, True)
    following = following_of(observation)
    return Words(read, None if following is None else following.tokens, is_exact, False)


def following_of(observation: Observation) -> Following | None:
    """Return the next tokens and their weights, or None without a shared output layer that has one row per token."""
    if not predicts_words(observation) or _is_tied(observation):
        return None
    name = _unbiased_output_layer(observation)
    if name is None or f"{name}.weight" not in observation.update.tensors:
        return None
    gradient = observation.update.tensors[f"{name}.weight"].double() / gradient_weight(observation)
    tokens = outstanding_rows(gradient)
    return Following(tokens, gradient[tokens].norm(dim=1) / _hidden_norm(observation, name))


def counts_of(following: Following, lengths: Sequence[int]) -> Tensor:
    """Return the number of occurrences of each next token, shape (K,), given the lengths of all sentences.

    Hidden states of different positions are about orthogonal, so the squared weights of a token's positions add up. The
    result is the smallest number of positions that explains the weight up to 3 %, or else the best-fitting number.
    """
    single = sorted({1.0 / (len(lengths) * n) for n in lengths})
    sums = [
        (math.sqrt(sum(weight**2 for weight in chosen)), count)
        for count in range(1, _MOST_COUNTED + 1)
        for chosen in combinations_with_replacement(single, count)
    ]
    counts = []
    for weight in following.weights.tolist():
        errors = [(abs(estimate / weight - 1.0), count) for estimate, count in sums]
        fitting = [count for error, count in errors if error < _SAME_WEIGHT]
        counts.append(min(fitting) if fitting else min(errors)[1])
    return torch.tensor(counts, dtype=torch.long)


def lengths_of(observation: Observation) -> tuple[int, ...]:
    """Return the number of tokens with a next token in each sentence; the longest possible if it cannot be inferred.

    If labels are granted, lengths come from the labels, in their order. Otherwise they are ascending and chosen to
    explain
    the weights 1 / (B n) of next tokens and their number, which is the rank of the output layer's gradient. No sentence
    is
    longer than the last learned position with a gradient.
    """
    batch, longest = observation.batch_size or 1, _longest(observation)
    if observation.labels is not None and observation.labels.ndim > 1:
        return tuple((observation.labels >= 0).sum(1).tolist())
    following = following_of(observation)
    if following is None or not len(following.tokens):
        return (longest,) * batch
    total = _places(observation)
    if batch == 1 and total is not None:
        return (min(total, longest),)
    weights = sorted((batch * following.weights).tolist(), reverse=True)
    return _explain(weights, total, batch, longest)


def pad_to_rows(tokens: Tensor, observation: Observation) -> Tensor:
    """Return tokens in rows of sentence length, padded with -1.

    Where these rows would outnumber the batch, as with tied weights, which add next tokens, the rows are longer.
    """
    length = observation.spec.shape[0]
    rows = min(-(-len(tokens) // length), observation.batch_size or len(tokens))
    length = max(length, -(-len(tokens) // rows)) if rows else length
    filled = torch.full((rows * length,), -1, dtype=torch.long)
    filled[: len(tokens)] = tokens
    return filled.view(rows, length)


def _explain(weights: Sequence[float], total: int | None, batch: int, longest: int) -> tuple[int, ...]:
    """Return lengths; each is supported by the weights of at least a third of a sentence's next tokens.

    Args:
        weights: weights of next tokens, times the batch size: 1 / n for a token that follows once.
        total: the sum of all lengths, or None.
        batch: number of sentences.
        longest: longest possible length.
    """
    singles = {n: sum(abs(weight * n - 1.0) < _SAME_LENGTH for weight in weights) for n in range(1, longest + 1)}
    possible = [n for n, count in singles.items() if count >= n / 3]
    if not possible:
        return (longest,) * batch

    def misfit(lengths: tuple[int, ...]) -> tuple[int, int]:
        misfit_of_total = 0 if total is None else abs(sum(lengths) - total)
        return misfit_of_total, sum(abs(lengths.count(n) * n - singles[n]) for n in possible)

    return min(islice(combinations_with_replacement(possible, batch), _MOST_TRIED), key=misfit)


def _longest(observation: Observation) -> int:
    """Return the maximal sentence length: the number of learned positions with a gradient, if the model has any."""
    length = observation.spec.shape[0]
    for name, module in observation.model.named_modules():
        gradient = observation.update.tensors.get(f"{name}.weight")
        is_positions = isinstance(module, nn.Embedding) and length <= len(module.weight) < (
            observation.spec.vocabulary or 0
        )
        if is_positions and gradient is not None and bool((gradient == 0).all(1).any()):
            return min(length, int((gradient != 0).any(1).sum()))
    return length


def _places(observation: Observation) -> int | None:
    """Return the number of tokens with a next token: the rank of the output layer's gradient, if it is clear."""
    name = _unbiased_output_layer(observation)
    limit = (observation.batch_size or 1) * observation.spec.shape[0]
    if name is None:
        return None
    singular = torch.linalg.svdvals(observation.update.tensors[f"{name}.weight"].double()).clamp_min(TINY)
    limit = min(limit, len(singular) - 1)
    ratios = singular[:limit] / singular[1 : limit + 1]
    rank = int(ratios.argmax()) + 1
    return rank if float(ratios[rank - 1]) > _GAP else None


def _unbiased_output_layer(observation: Observation) -> str | None:
    """Return the name of the output layer if it has one output per token and no bias, else None."""
    output = output_layer(observation.model, observation.spec.classes)
    return output[0] if output is not None and output[1].bias is None else None


def _is_tied(observation: Observation) -> bool:
    return any(isinstance(module, TiedHead) for module in observation.model.modules())


@torch.no_grad()
def _hidden_norm(observation: Observation, head: str) -> float:
    """Return the median norm of the output layer's inputs on random tokens; it hardly varies after a norm layer."""
    model, generator = observation.working_copy("eval"), torch.Generator().manual_seed(0)
    shape = (_PROBES, *observation.spec.shape)
    tokens = torch.randint(observation.spec.vocabulary or 1, shape, generator=generator)
    (hidden,) = read_by(model, [head], tokens, nullcontext())
    return float(hidden.norm(dim=-1).median())
