"""Masks and labels of a dense network, layer by layer, once the inputs of a batch are known.

The gradient of a linear layer is dW = sum_i delta_i a_i^T. With its inputs a_i known, least squares gives every
delta_i. Its zeros are the units behind the layer that dropout (or ReLU) set to zero, so the inputs of the next layer
are known too. In the last layer delta_i = (p_i - onehot(y_i)) / B: its only negative entry shows the label.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.core.mask_readout_rules import linear_behind
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.layer_calls import inputs_in_order
from fedsim.core.masks import inject_masks
from fedsim.core.types import Masks, Observation

# A float32 gradient leaves about 1e-7 where the exact value is zero; both limits are relative to the unit's norm.
_SURELY_ZERO, _SURELY_KEPT = 3e-8, 1e-4
_DOUBTFUL = 1e-5


@dataclass(frozen=True)
class Peeled:
    """Masks, labels and output gradients, in the order of the inputs.

    Attributes:
        masks: one per site, in the model's precision, or None when some site is not between two linear layers.
        labels: shape (B,), or None when the last linear layer does not have one output per class.
        deltas: dL/d(outputs) of the last linear layer, shape (B, K) float64, or None as for the labels.
    """

    masks: Masks | None
    labels: Tensor | None
    deltas: Tensor | None


@torch.no_grad()
def peel(observation: Observation, examples: Tensor) -> Peeled:
    """Solve the linear layers in the order of their calls.

    Args:
        observation: with an exact gradient and the true dropout rates.
        examples: the batch, shape (B, *shape).
    """
    model = copy.deepcopy(observation.model).double().train()
    masks = [torch.ones((len(examples), *site.shape[1:]), dtype=torch.float64) for site in observation.sites]
    site_before = {name: index for index, name in linear_behind(observation).items()}
    names = [name for name, _ in _linear_inputs(model, observation, examples, masks)]
    deltas = torch.zeros(0)
    for position, name in enumerate(names):
        inputs = _linear_inputs(model, observation, examples, masks)[position][1]
        if inputs.ndim != 2 or f"{name}.weight" in observation.hidden:  # noqa: PLR2004 - one vector an example
            return Peeled(None, None, None)
        gradient = observation.update.tensors[f"{name}.weight"].double()
        if name in site_before:
            mask = _decided(deltas, inputs, gradient)
            masks[site_before[name]] = mask
            inputs = inputs * mask
        deltas = torch.linalg.lstsq(inputs.T, gradient.T).solution
    dtype = next(observation.model.parameters()).dtype
    is_complete = len(site_before) == len(masks)
    has_head = deltas.shape[1] == observation.spec.classes
    return Peeled(
        tuple(mask.to(dtype) for mask in masks) if is_complete else None,
        deltas.argmin(1) if has_head else None,
        deltas if has_head else None,
    )


def _decided(deltas: Tensor, activations: Tensor, gradient: Tensor) -> Tensor:
    """Return the mask (B, units) between two layers; one wrong entry would make all layers behind wrong.

    Where an entry of `deltas` is neither surely zero nor surely kept, the layer behind decides: the masked activations
    must lie in the row space of its gradient, a condition that is linear in the mask.
    """
    sizes = deltas.abs() / deltas.norm(dim=0).clamp_min(LEAST)
    mask = (sizes > _widest_gap(sizes)).double()
    _, singular, right = torch.linalg.svd(gradient, full_matrices=False)
    if int((singular > EXACT * singular[0]).sum()) < len(mask):
        return mask
    span = right[: len(mask)]
    for example in range(len(mask)):
        open_units = ((sizes[example] > _SURELY_ZERO) & (sizes[example] < _DOUBTFUL)).nonzero().flatten()
        certain = mask[example] * activations[example]
        certain[open_units] = 0.0
        columns = torch.eye(len(certain), dtype=torch.float64)[:, open_units] * activations[example, open_units]
        solution = torch.linalg.lstsq(_outside(columns, span), -_outside(certain[:, None], span)).solution
        mask[example, open_units] = (solution.flatten() > 0.5).double()  # noqa: PLR2004 - the nearer of 0 and 1
    return mask


def _outside(columns: Tensor, span: Tensor) -> Tensor:
    """Parts of columns (units, n) orthogonal to the rows of `span`."""
    return columns - span.T @ (span @ columns)


def _widest_gap(sizes: Tensor) -> Tensor:
    """Return the middle of the widest gap, in logarithms, between rounding errors and small entries."""
    window = sizes[(sizes > _SURELY_ZERO) & (sizes < _SURELY_KEPT)].log().sort().values
    edges = torch.cat([torch.tensor([math.log(_SURELY_ZERO)]), window, torch.tensor([math.log(_SURELY_KEPT)])])
    widest = edges.diff().argmax()
    return edges[widest : widest + 2].mean().exp()


def _linear_inputs(
    model: nn.Module, observation: Observation, examples: Tensor, masks: list[Tensor]
) -> list[tuple[str, Tensor]]:
    with inputs_in_order(model, (nn.Linear,)) as seen, inject_masks(observation.sites, tuple(masks)):
        model(examples.double())
    return seen
