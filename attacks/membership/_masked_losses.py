"""Losses of tokens at masked positions. The masked positions are sampled once, for all texts and models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.membership._signals import model_with
from fedsim.core.nets.losses import IGNORED
from fedsim.core.nets.masked_positions import mask_token
from fedsim.core.types import Batch, Tensors
from fedsim.questions.membership.types import MembershipObservation


def fills_in_nothing(observation: MembershipObservation) -> str | None:
    """Return why the model does not predict masked positions, or None."""
    if mask_token(observation.model) is not None:
        return None
    return "the model has no mask token, so it cannot predict masked positions of a text"


def masked_places(batch: Batch, share: float, keys: Tensor) -> Tensor:
    """Return the masked positions of each answer, (N, T): the positions with the smallest keys, at least one.

    Args:
        batch: texts; positions without a label belong to a prompt and are never masked.
        share: share of masked positions, in (0, 1].
        keys: random numbers in [0, 1), one per position, (T,).
    """
    answers = batch.labels != IGNORED
    ranks = keys.expand(answers.shape).masked_fill(~answers, torch.inf).argsort(1).argsort(1)
    count = (share * answers.sum(1)).ceil().clamp_min(1)
    return (ranks < count[:, None]) & answers


@torch.no_grad()
def token_losses(observation: MembershipObservation, weights: Tensors, masked: Tensor) -> Tensor:
    """Return -log of the probability of each candidate's token at each position (N, T), in double precision.

    Args:
        observation: provides the candidates.
        weights: weights of the model.
        masked: positions (N, T) that the model does not see.
    """
    task, batch, losses = observation.task, observation.candidates, list[Tensor]()
    model = model_with(observation, weights)
    for rows in torch.arange(len(batch)).split(task.eval_batch_size):
        part = batch.select(rows)
        outputs = task.outputs(model, part, {"masked": masked[rows]})
        losses.append(F.cross_entropy(outputs.double().mT, part.inputs, reduction="none"))
    return torch.cat(losses)
