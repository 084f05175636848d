"""What a model says about examples: losses, confidences, gradients. Always in evaluation mode, without dropout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from fedsim.types import Batch, MembershipObservation, Tensors

_AT_ONCE = 512


@torch.no_grad()
def outputs(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the model's outputs with these weights in double precision, shape (B, K)."""
    chunks = [functional_call(observation.model, dict(weights), (own,)) for own in batch.inputs.split(_AT_ONCE)]
    return torch.cat(chunks).double()


def losses(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the loss of each example by itself, shape (B,)."""
    alone = torch.vmap(lambda output, label: observation.loss(output[None], label[None]))
    return alone(outputs(observation, weights, batch), batch.labels)


def confidences(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return the probability p of each example's own label, shape (B,)."""
    return outputs(observation, weights, batch).softmax(1).gather(1, batch.labels[:, None])[:, 0]


def scaled(observation: MembershipObservation, weights: Tensors, batch: Batch) -> Tensor:
    """Return log(p / (1 - p)), shape (B,), computed from the outputs, so that p near 0 or 1 loses nothing."""
    logits = outputs(observation, weights, batch)
    own = batch.labels[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(1)
    return logits.gather(1, own)[:, 0] - others
