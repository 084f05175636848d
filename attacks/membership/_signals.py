"""Losses and confidences of examples under a model, always in evaluation mode, without dropout.

The probability of a sentence is the geometric mean of its tokens' probabilities, exp(-loss), so that it does not depend
on the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from fedsim.core.nets.losses import log_odds
from fedsim.core.types import Batch, Tensors
from fedsim.questions.membership.types import MembershipObservation


def losses(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the loss of each single example, shape (B,)."""
    example_losses = torch.vmap(lambda output, label: observation.loss(output[None], label[None]))
    return _signal_of(observation, weights, batch, example_losses)


def confidences(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the probability p of each example's own label or tokens, shape (B,)."""
    return _signal_of(
        observation, weights, batch, lambda outputs, labels: (-observation.task.losses(outputs, labels)).exp()
    )


def scale(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return log(p / (1 - p)), shape (B,), which stays precise for p near 0 or 1."""
    return _signal_of(observation, weights, batch, log_odds)


def model_with(observation: MembershipObservation, weights: Tensors) -> Callable[..., Tensor]:
    """Return a function that runs the observed model with these weights."""

    def model(*inputs: Tensor, **given: Any) -> Tensor:
        return functional_call(observation.model, dict(weights), inputs, given)

    return model


@torch.no_grad()
def _signal_of(
    observation: MembershipObservation, weights: Tensors, batch: Batch, signal: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return a signal of outputs (double precision) and labels, in chunks, since outputs for all tokens are large."""
    return torch.cat([signal(outputs, labels) for outputs, labels in _answers(observation, weights, batch)])


def _answers(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    task, model = observation.task, model_with(observation, weights)
    for part in batch.split(task.eval_batch_size):
        outputs, targets = task.answer(model, part, {})
        yield outputs.double(), targets
