"""Compute the output layer's residuals, dL/dz of every example, from a gradient with known inputs.

An output layer z = W h + b has the gradients dW = sum_i r_i h_i^T and db = sum_i r_i, with r_i = dL/dz_i. For a single
example, h = dW^T db / |db|^2. For several known inputs, a forward pass gives every h_i, and least squares every r_i, if
the rows [h_i, 1] are independent. Without such an output layer, the gradient of any weight w is sum_k r_k dz_k/dw,
which is linear in r too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attacks.core.mean_gradient import gradient_weight
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.nets.layer_calls import layer_inputs, layer_outputs
from fedsim.core.nets.masks import inject_masks
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Masks, Observation, slice_heads

_CONDITION = 1e6  # condition number of the equations above which two examples count as dependent
_MOST_OUTPUTS = 1024  # outputs of a whole batch without an output layer: each needs a backward pass
_EQUATIONS = 16  # weights used per output, from the last parameter on


class Residuals(NamedTuple):
    outputs: Tensor  # z, shape (B, ..., K), float64
    values: Tensor  # dL/dz, the same shape


class OutputHead(NamedTuple):
    name: str
    weight: Tensor  # (K, d), float64
    bias: Tensor | None
    gradient: Tensor  # (K, d)
    bias_gradient: Tensor | None


def head_of(observation: Observation) -> OutputHead | None:
    """Return the output layer and its mean gradient; None if it is not shared or the model has several heads."""
    model, tensors = observation.model, observation.update.tensors
    output = output_layer(model, observation.spec.classes)
    if output is None and not observation.spec.heads:
        output = output_layer(model)
    if output is None or f"{output[0]}.weight" not in tensors:
        return None
    name, layer = output
    factor, has_bias = gradient_weight(observation), layer.bias is not None and f"{name}.bias" in tensors
    return OutputHead(
        name,
        layer.weight.detach().double(),
        None if layer.bias is None else layer.bias.detach().double(),
        tensors[f"{name}.weight"].double() / factor,
        tensors[f"{name}.bias"].double() / factor if has_bias else None,
    )


def residuals_of_one(head: OutputHead) -> Residuals | None:
    """Return output and residual of a single example, from the gradient alone; None if the gradient has not rank 1."""
    if head.bias_gradient is None or not bool(head.bias_gradient.any()):
        return None
    features = head.gradient.T @ head.bias_gradient / head.bias_gradient.square().sum()
    left = head.gradient - torch.outer(head.bias_gradient, features)
    if float(left.norm()) > EXACT * float(head.gradient.norm()):
        return None
    outputs = head.weight @ features
    return Residuals((outputs if head.bias is None else outputs + head.bias)[None], head.bias_gradient[None])


@torch.no_grad()
def residuals_of_batch(
    observation: Observation, model: nn.Module, head: OutputHead, inputs: Tensor, masks: Masks | None
) -> Residuals | None:
    """Return outputs and residuals of a batch by least squares; None if the equations are singular or inconsistent."""
    if observation.sites and masks is None:
        return None
    with (
        _apply_masks(observation, masks),
        layer_inputs(model.train(), [head.name]) as seen,
        layer_outputs(model, [head.name]) as returned,
    ):
        model(inputs.double())
    if len(seen) != 1:
        return None
    (_, features), (_, outputs) = seen[0], returned[0]
    rows, gradient = features.flatten(0, -2), head.gradient
    if head.bias_gradient is not None:
        rows = torch.column_stack([rows, torch.ones(len(rows), dtype=rows.dtype)])
        gradient = torch.column_stack([gradient, head.bias_gradient])
    if len(rows) > rows.shape[1] or float(torch.linalg.cond(rows)) > _CONDITION:
        return None
    residuals = torch.linalg.lstsq(rows.T, gradient.T).solution
    if float((gradient - residuals.T @ rows).norm()) > EXACT * float(gradient.norm().clamp_min(LEAST)):
        return None
    return Residuals(outputs, residuals.view(outputs.shape))


def residuals_by_all_layers(
    observation: Observation, model: nn.Module, inputs: Tensor, masks: Masks | None
) -> Residuals | None:
    """Return outputs and residuals of a batch by least squares on the gradients of the last weights, or None."""
    if observation.sites and masks is None:
        return None
    shared = [(name, p) for name, p in model.named_parameters() if name in observation.update.tensors]
    with torch.enable_grad(), _apply_masks(observation, masks):
        for _, parameter in shared:
            parameter.requires_grad_()
        outputs = model.train()(inputs.double())
        heads = [place for _, _, place in slice_heads(observation.spec.heads)]
        chosen = {} if outputs.numel() > _MOST_OUTPUTS else _behind_outputs(shared, outputs, heads)
        if not chosen:
            return None  # too many outputs, or the masks drop everything of the examples
        rows = [_flat(torch.autograd.grad(output, list(chosen.values()), retain_graph=True, materialize_grads=True))
                for output in outputs.flatten().unbind()]  # fmt: skip
    model.requires_grad_(requires_grad=False)
    gradient = _flat([observation.update.tensors[name].double() for name in chosen]) / gradient_weight(observation)
    equations = torch.stack(rows, 1)
    if len(equations) < equations.shape[1]:
        return None
    frame, triangle = torch.linalg.qr(equations)
    if float(torch.linalg.cond(triangle)) > _CONDITION:
        return None
    residuals = torch.linalg.solve_triangular(triangle, (frame.T @ gradient)[:, None], upper=True)[:, 0]
    if float((gradient - equations @ residuals).norm()) > EXACT * float(gradient.norm().clamp_min(LEAST)):
        return None
    return Residuals(outputs.detach(), residuals.view(outputs.shape))


def _behind_outputs(
    parameters: list[tuple[str, nn.Parameter]], outputs: Tensor, heads: Sequence[slice]
) -> dict[str, nn.Parameter]:
    """Return the last parameters on which each head's outputs depend, enough to solve for the residuals."""
    chosen = dict[str, nn.Parameter]()
    for head in heads or [slice(None)]:
        of_head, all_parameters = outputs[:, head], [parameter for _, parameter in parameters]
        moving = torch.autograd.grad(of_head.sum(), all_parameters, retain_graph=True, materialize_grads=True)
        pairs = [pair for pair, slope in zip(parameters, moving, strict=True) if bool(slope.any())]
        chosen |= _last(pairs, _EQUATIONS * of_head.numel())
    return chosen


def _last(parameters: list[tuple[str, nn.Parameter]], numbers: int) -> dict[str, nn.Parameter]:
    """Return the last parameters, up to a total of `numbers` entries."""
    chosen, held = dict[str, nn.Parameter](), 0
    for name, parameter in reversed(parameters):
        chosen[name] = parameter
        held += parameter.numel()
        if held >= numbers:
            break
    return chosen


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _apply_masks(observation: Observation, masks: Masks | None) -> AbstractContextManager[None]:
    return nullcontext() if masks is None else inject_masks(observation.sites, tuple(mask.double() for mask in masks))
