"""Matching objective at the truth: shows whether an attack could succeed, and whether it converged.

For scoring only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedsim.core.nets.gradients import cosine_distance, gradient_of
from fedsim.core.nets.masks import inject_masks
from fedsim.core.nets.step_draws import Showing
from fedsim.core.types import Batch, DropoutSite, Loss, Masks, Reconstruction, Truth, Update
from fedsim.core.types.tasks import Answer, plain_answer
from fedsim.record.scores import CONVERGENCE_FACTOR

_ROUNDING = 1e-12  # remaining 1 - cosine of two float32 gradients that are equal up to rounding


def objective_at_truth(
    model: nn.Module,
    update: Update,
    truth: Truth,
    loss: Loss,
    sites: Sequence[DropoutSite],
    answer: Answer = plain_answer,
) -> float | None:
    """Return 1 - cosine between the update and the gradient of the true batch under the true masks, in [0, 2].

    Without a defense it is 0 up to rounding. None for updates of several steps, which are not one gradient, and if the
    dropout masks of a captured update are unknown.

    Args:
        model: with the weights at which the update was computed.
        update: the observed update.
        truth: its ground truth.
        loss: the client's loss.
        sites: dropout sites of the model, for that batch.
        answer: `Task.answer` of the clients' task.
    """
    masks = _masks(truth, sites)
    if len(truth.batches) != 1 or masks is None:
        return None
    ours = _gradient(model, truth.batches[0], masks, truth, loss, sites, answer)
    return cosine_distance(ours, [update.tensors[name].double() for name in _trainable_parameters(model)])


def update_distance(
    model: nn.Module,
    update: Update,
    truth: Truth,
    loss: Loss,
    sites: Sequence[DropoutSite],
    answer: Answer = plain_answer,
    guess: Reconstruction | None = None,
) -> float | None:
    """Return 1 - cosine between the sent update and the gradient of the true batch, or of a guess, in [0, 2].

    Zero entries of the update are excluded, because pruning may have set them. None if the client trained on other
    inputs than its own examples, or in several steps: then the measure is not 0 at the truth. Infinite for a guess of
    another shape or with non-finite inputs.

    Args:
        model: with the weights at which the update was computed.
        update: the observed update.
        truth: its ground truth.
        loss: the client's loss.
        sites: dropout sites of the model, for that batch.
        answer: `Task.answer` of the clients' task.
        guess: in the order of the true examples; without masks it gets the true ones. None for the truth.
    """
    masks = _masks(truth, sites)
    if (
        len(truth.batches) != 1
        or masks is None
        or not torch.equal(truth.batches[0].inputs, truth.original_batches[0].inputs)
    ):
        return None
    batch = truth.batches[0]
    if guess is not None:
        if guess.inputs.shape != batch.inputs.shape or not bool(guess.inputs.isfinite().all()):
            return math.inf
        batch, masks = _substitute_guess(batch, guess), masks if guess.masks is None else guess.masks
    sent = [update.tensors[name].double() for name in _trainable_parameters(model)]
    ours = _gradient(model, batch, masks, truth, loss, sites, answer)
    return cosine_distance([slope * (tensor != 0) for slope, tensor in zip(ours, sent, strict=True)], sent)


def has_converged(at_guess: float, at_truth: float) -> bool:
    """Return whether a guess leaves at most `CONVERGENCE_FACTOR` times as much unexplained as the truth."""
    return at_guess <= CONVERGENCE_FACTOR * at_truth + _ROUNDING


def _substitute_guess(batch: Batch, guess: Reconstruction) -> Batch:
    """Return the true batch with the guess's inputs, and with its labels if it has any."""
    labels = batch.labels
    if guess.labels.shape == labels.shape and guess.labels.dtype == labels.dtype:
        unknown = guess.labels.isnan() if guess.labels.is_floating_point() else guess.labels < 0
        labels = torch.where(unknown, labels, guess.labels)
    return replace(batch, inputs=guess.inputs.detach().to(batch.inputs), labels=labels)


def _masks(truth: Truth, sites: Sequence[DropoutSite]) -> Masks | None:
    """Return the dropout masks of the first step; None if unknown."""
    masks = truth.masks[0] if truth.masks else ()
    return masks if len(masks) == len(sites) else None


def _trainable_parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _gradient(
    model: nn.Module,
    batch: Batch,
    masks: Masks,
    truth: Truth,
    loss: Loss,
    sites: Sequence[DropoutSite],
    answer: Answer,
) -> list[Tensor]:
    """Return the gradient of one step in double precision, by tensor, with the true draws of the task."""
    draws = truth.draws[0] if truth.draws else {}
    with inject_masks(sites, masks), Showing(draws):
        value = loss(*answer(model, batch, draws))
    return [slope.double() for slope in gradient_of(value, _trainable_parameters(model)).values()]
