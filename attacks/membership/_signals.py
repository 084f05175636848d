"""Losses and confidences of examples under a model, always in evaluation mode, without dropout.

The probability of a sentence is the geometric mean of its tokens' probabilities, exp(-loss), so that it does not depend
on the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import functional_call

from fedsim.core.losses import are_tokens, per_example
from fedsim.core.types import Batch, MembershipObservation, Tensors

_AT_ONCE = 512
_SENTENCES_AT_ONCE = 16
_LEAST_LOSS = torch.finfo(torch.float64).eps


def losses(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the loss of each single example, shape (B,)."""
    alone = torch.vmap(lambda output, label: observation.loss(output[None], label[None]))
    return _each(observation, weights, batch, alone)


def confidences(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the probability p of each example's own label or tokens, shape (B,)."""
    return _each(observation, weights, batch, lambda outputs, labels: (-per_example(outputs, labels)).exp())


def scaled(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return log(p / (1 - p)), shape (B,), which stays precise for p near 0 or 1."""
    return _each(observation, weights, batch, _logits)


def _logits(outputs: Tensor, labels: Tensor) -> Tensor:
    if are_tokens(labels):
        loss = per_example(outputs, labels).clamp_min(_LEAST_LOSS)
        return -loss - (-torch.expm1(-loss)).log()
    own = labels[:, None]
    others = outputs.scatter(1, own, -torch.inf).logsumexp(1)
    return outputs.gather(1, own)[:, 0] - others


@torch.no_grad()
def _each(
    observation: MembershipObservation, weights: Tensors, batch: Batch, signal: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return a signal of outputs (double precision) and labels, in chunks, since outputs for all tokens are large."""
    return torch.cat([signal(outputs, labels) for outputs, labels in _answers(observation, weights, batch)])


def _answers(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    size = _SENTENCES_AT_ONCE if are_tokens(batch.labels) else _AT_ONCE
    for inputs, labels in zip(batch.inputs.split(size), batch.labels.split(size), strict=True):
        yield functional_call(observation.model, dict(weights), (inputs,)).double(), labels
