"""The gradient that a client would compute on a guess."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor

from attacks.core.layers import run
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Masks, Observation


@torch.enable_grad()
def client_gradient(
    observation: Observation,
    inputs: Tensor,
    labels: Tensor,
    masks: Masks | None,
    names: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Return the gradient of the client's loss at guessed examples, by parameter.

    Args:
        observation: gives the model, the loss and the dropout sites.
        inputs: guessed examples, shape (B, *shape).
        labels: one per example, in the order of `inputs`.
        masks: one per site; None for a model without dropout.
        names: names of the parameters; None for all parameters with shared gradients.
    """
    model = observation.model.train()
    wanted = set(observation.update.tensors if names is None else names)
    parameters = {name: p for name, p in model.named_parameters() if name in wanted}
    dtype = next(model.parameters()).dtype
    dropping = (
        nullcontext() if masks is None else inject_masks(observation.sites, tuple(mask.to(dtype) for mask in masks))
    )
    with dropping:
        loss = observation.loss(run(model, inputs.to(dtype) if inputs.is_floating_point() else inputs), labels)
    return gradient_of(loss, parameters)
