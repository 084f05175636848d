"""How well a guess explains the upload: decided from the gradient alone, never from the truth."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.masks import injected_masks
from fedsim.types import Masks, Observation


class Verdict(NamedTuple):
    """An attack's objective at its guess, and a sentence that says what it measures."""

    objective: float
    meaning: str


def verdict(
    observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks | None, residual: tuple[float, str]
) -> Verdict:
    """Compare whole gradients where the client's forward pass can be repeated; else fall back to a residual.

    Args:
        observation: what the attack got.
        inputs: guessed examples, shape (B, *shape).
        labels: one an example, in the order of `inputs`.
        masks: one a site, or None when some are unknown.
        residual: of the attack's own equations, and its name.
    """
    if masks is None or not knows_rates(observation):
        return Verdict(residual[0], f"objective: {residual[1]}")
    distance = gradient_distance(observation, inputs, labels, masks)
    return Verdict(distance, "objective: 1 - cosine of the whole gradient")


def gradient_distance(observation: Observation, inputs: Tensor, labels: Tensor, masks: Masks) -> float:
    """Return 1 - cosine, in [0, 2], between the gradient at the guess and the observed one, both in float64.

    Args:
        observation: its sites must carry the true dropout rates.
        inputs: guessed examples, shape (B, *shape).
        labels: one an example, in the order of `inputs`.
        masks: one a site.
    """
    model = copy.deepcopy(observation.model).double().train()
    parameters = {name: p for name, p in model.named_parameters() if name in observation.update.tensors}
    with injected_masks(observation.sites, tuple(mask.double() for mask in masks)):
        loss = observation.loss(model(inputs.double()), labels)
    gradient = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    ours = torch.cat([part.flatten() for part in gradient])
    theirs = torch.cat([observation.update.tensors[name].double().flatten() for name in parameters])
    return float(1.0 - (ours @ theirs) / (ours.norm() * theirs.norm()).clamp_min(1e-300))


def knows_rates(observation: Observation) -> bool:
    """Say whether the sites carry the true dropout rates, so that the client's forward pass can be repeated."""
    return not observation.sites or "dropout-rates" in observation.threat.knows
