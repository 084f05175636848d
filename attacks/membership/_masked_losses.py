"""Losses of tokens at masked places. Which places are masked is drawn once, for all texts and models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.membership._signals import model_with
from fedsim.core.losses import IGNORED
from fedsim.core.masked_places import mask_token
from fedsim.core.types import Batch, MembershipObservation, Tensors


def fills_in_nothing(observation: MembershipObservation) -> str | None:
    """Return why the model cannot be asked for masked places, or None."""
    if mask_token(observation.model) is not None:
        return None
    return "the model has no mask token, so it cannot be asked for masked places of a text"


def masked_places(batch: Batch, share: float, keys: Tensor) -> Tensor:
    """Return which places of each answer are masked, (N, T): a share of them, at least one, those of the least keys.

    Args:
        batch: texts; places without a label belong to a prompt and are never masked.
        share: in (0, 1].
        keys: random numbers in [0, 1), one a place, (T,).
    """
    answers = batch.labels != IGNORED
    ranks = keys.expand(answers.shape).masked_fill(~answers, torch.inf).argsort(1).argsort(1)
    count = (share * answers.sum(1)).ceil().clamp_min(1)
    return (ranks < count[:, None]) & answers


@torch.no_grad()
def token_losses(observation: MembershipObservation, weights: Tensors, masked: Tensor) -> Tensor:
    """Return -log of the probability of each candidate's token at each place (N, T), in double precision.

    Args:
        observation: its candidates are meant.
        weights: of the model that is asked.
        masked: places (N, T) that it does not see.
    """
    task, batch, losses = observation.task, observation.candidates, list[Tensor]()
    model = model_with(observation, weights)
    for rows in torch.arange(len(batch)).split(task.at_once):
        part = batch.taken(rows)
        outputs = task.outputs(model, part, {"masked": masked[rows]})
        losses.append(F.cross_entropy(outputs.double().mT, part.inputs, reduction="none"))
    return torch.cat(losses)
