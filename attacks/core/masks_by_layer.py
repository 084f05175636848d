"""Recover masks and labels of a dense network, layer by layer, from the known inputs of a batch.

The gradient of a linear layer is dW = sum_i delta_i a_i^T. With known inputs a_i, least squares gives every delta_i.
Its zeros are the units that dropout (or ReLU) set to zero after the layer, so the inputs of the next layer are known
too. In the last layer delta_i = (p_i - onehot(y_i)) / B: its only negative entry shows the label.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from attacks.core.mask_readout_rules import linear_behind
from attacks.core.spans import even_rows, even_spectrum
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.nets.layer_calls import inputs_in_order
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import DropoutSite, Masks, Observation

# A float32 gradient has an error of about 1e-7 where the exact value is zero; limits are relative to the unit's norm.
_SURELY_ZERO, _SURELY_KEPT = 3e-8, 1e-4
_SURELY = 1.5
_CLEAR = 1e-2  # relative to an example's usual entry: a kept unit rarely has a smaller entry
_NEAR = 0.2  # relative to an activation: tolerance of its masked value, 0 or 1 times the activation
_CORRECTIONS = 4
_EXPLAINED = 0.02  # share of a squared column that remains after a correct change of a mask entry
_SMOOTHINGS = torch.logspace(0, -6, 12, dtype=torch.float64)
_FINEST = 1e-15  # relative to a row's norm, in double precision
_ONE_CLASS = 0.1  # most negative sum of the other entries, relative to the lowest entry, if the lowest shows the class
_ABOVE_ROUNDING = 1e-2  # relative to the largest row; a vanished loss has far less


@dataclass(frozen=True)
class Peeled:
    """Masks, labels and output gradients, in the order of the inputs.

    Attributes:
        masks: one per site, in the model's precision, or None if some site is not between two linear layers.
        labels: shape (B,), or None if the last linear layer does not have one output per class, or is missing.
        deltas: dL/d(outputs) of the last linear layer, shape (B, K) float64, or None if it is not the output layer.
        holds: whether the inferred inputs of the last layer explain its gradient. True without a classifier layer.
    """

    masks: Masks | None
    labels: Tensor | None
    deltas: Tensor | None
    holds: bool = True


class Forward(Protocol):
    """A forward pass of the batch with masks."""

    def __call__(self, masks: list[Tensor]) -> tuple[list[tuple[str, Tensor]], Tensor]:
        """Return the inputs (B, d) of the linear layers in call order, with the layers' names; and the outputs."""
        ...


@torch.no_grad()
def peel(observation: Observation, examples: Tensor, forward: Forward | None = None) -> Peeled:
    """Solve the linear layers in call order.

    Args:
        observation: with an exact gradient and the true dropout rates.
        examples: the batch, shape (B, *shape).
        forward: forward pass of the examples in double precision; None: forward pass of the observed model.
    """
    forward = forward or forward_of(observation.model, observation.sites, examples)
    masks = [torch.ones((len(examples), *site.shape[1:]), dtype=torch.float64) for site in observation.sites]
    site_before = {name: index for index, name in linear_behind(observation).items()}
    names = [name for name, _ in forward(masks)[0]]
    unread = [index for index in range(len(masks)) if index not in site_before.values()]
    holds = False
    deltas = errors = torch.zeros(0)
    for position, name in enumerate(names):
        inputs = forward(masks)[0][position][1]
        if inputs.ndim != 2 or f"{name}.weight" in observation.hidden_parameters:  # noqa: PLR2004 - one vector an example
            return Peeled(None, None, None)
        gradient = observation.update.tensors[f"{name}.weight"].double()
        if name in site_before:
            mask = _infer_mask(deltas, errors, inputs, gradient)
            masks[site_before[name]] = mask
            inputs = inputs * mask
        elif unread and deltas.shape[1:] == masks[unread[0]].shape[1:]:
            read = _read_added(deltas, gradient, _inputs_of_mask(forward, masks, unread[0], position))
            if read is not None:  # the site follows the previous layer; its output is added to another tensor
                masks[unread[0]], inputs = read
                unread = unread[1:]
        holds = _measure_residual(inputs, gradient) < EXACT
        deltas, errors = _solve_deltas(inputs, gradient)
    dtype = next(observation.model.parameters()).dtype
    expected = [torch.full_like(mask, 1.0 - site.rate) for mask, site in zip(masks, observation.sites, strict=True)]
    has_head = deltas.shape[1] == observation.spec.classes
    are_classes = has_head and observation.task.label_kind == "class"
    return Peeled(
        tuple(mask.to(dtype) for mask in masks) if not unread else None,
        _labels(forward(expected)[1], deltas) if are_classes else None,
        deltas if has_head else None,
        holds or not has_head,
    )


def _solve_deltas(inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return output gradients (B, h) for inputs (B, d), and the standard deviation of their errors.

    The least-squares residual of a row estimates the error: it is rounding, or missing examples.
    """
    deltas = torch.linalg.lstsq(inputs.T, gradient.T).solution
    free = max(1, inputs.shape[1] - len(inputs))
    left = (gradient - deltas.T @ inputs).norm(dim=1) / free**0.5
    left = torch.maximum(left, _FINEST * gradient.norm(dim=1))
    return deltas, torch.linalg.pinv(inputs).norm(dim=0)[:, None] * left


def _labels(expected: Tensor, deltas: Tensor) -> Tensor:
    """Return the class of each example: the lowest entry of p - onehot, which is the only negative entry.

    For mixed labels of two classes the entry of the larger part is the lowest, if the loss is above rounding. For an
    example with a vanished loss only rounding is left; its class is then the model's prediction.

    Args:
        expected: the model's outputs without dropout, shape (B, K).
        deltas: output gradients, shape (B, K).
    """
    lowest = deltas.argmin(1)
    negative = deltas.clamp_max(0.0)
    lowest_value = negative.gather(1, lowest[:, None])[:, 0]
    is_clear = (lowest_value < 0.0) & (negative.sum(1) - lowest_value >= _ONE_CLASS * lowest_value)
    sizes = deltas.norm(dim=1)
    return torch.where(is_clear | (sizes > _ABOVE_ROUNDING * sizes.max()), lowest, expected.argmax(1))


def _infer_mask(deltas: Tensor, errors: Tensor, activations: Tensor, gradient: Tensor) -> Tensor:
    """Return the mask (B, units) between two layers; a wrong entry would make all later layers wrong.

    The masked activations lie in the row space of the next layer's gradient, which has far fewer dimensions than units.
    So the units with an entry of `deltas` that is clearly zero or clearly nonzero determine the units hidden by
    rounding.
    """
    by_gap = _split_at_widest_gap(deltas)
    if _measure_residual(by_gap * activations, gradient) < EXACT:
        return by_gap
    usual = deltas.square().mean(1, keepdim=True).sqrt()
    # Threshold at which a dropped and a kept unit are equally likely under normal distributions; with a margin.
    limits = _SURELY * errors * (2.0 * (usual / errors.clamp_min(LEAST)).log().clamp_min(1.0)).sqrt()
    are_kept = deltas.abs() > limits
    are_sure = are_kept | (limits < _CLEAR * usual)
    mask = are_kept.double()
    _, singular, right = torch.linalg.svd(even_rows(gradient), full_matrices=False)
    if len(singular) <= len(mask):  # the space is too narrow to hold every example
        return _correct_mask(mask, activations, gradient)
    rank = even_spectrum(singular, limit=len(mask)).rank
    for example, activation in enumerate(activations):
        image = _fit(right[:rank], mask[example] * activation, are_sure[example])
        if image is None:
            continue
        if_dropped, if_kept = image.abs(), (image - activation).abs()
        tells = torch.minimum(if_dropped, if_kept) < _NEAR * activation.abs()
        mask[example] = torch.where(tells, (if_kept < if_dropped).double(), mask[example])
    return mask


def _inputs_of_mask(forward: Forward, masks: list[Tensor], site: int, position: int) -> Callable[[Tensor], Tensor]:
    """Return the inputs of the linear layer at a position, as a function of a site's mask."""

    def inputs(mask: Tensor) -> Tensor:
        return forward([*masks[:site], mask, *masks[site + 1 :]])[0][position][1]

    return inputs


def _read_added(deltas: Tensor, gradient: Tensor, inputs: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the mask and the next layer's inputs for a layer whose dropped-out output is added to another tensor.

    Args:
        deltas: output gradients of the layer before, shape (B, h).
        gradient: gradient of the next layer.
        inputs: the next layer's inputs as a function of the mask.

    Returns:
        None if no mask explains the gradient of the next layer.
    """
    by_gap = _split_at_widest_gap(deltas)
    read = inputs(by_gap)
    if _measure_residual(read, gradient) < EXACT:
        return by_gap, read
    added = inputs(torch.zeros_like(by_gap))
    mask = _correct_mask(by_gap, inputs(torch.ones_like(by_gap)) - added, gradient, added)
    read = inputs(mask)
    return (mask, read) if _measure_residual(read, gradient) < EXACT else None


def _split_at_widest_gap(deltas: Tensor) -> Tensor:
    """Return the mask (B, units) of entries above the widest logarithmic gap between rounding and small entries."""
    sizes = deltas.abs() / deltas.norm(dim=0).clamp_min(LEAST)
    window = sizes[(sizes > _SURELY_ZERO) & (sizes < _SURELY_KEPT)].log().sort().values
    edges = torch.cat([torch.tensor([math.log(_SURELY_ZERO)]), window, torch.tensor([math.log(_SURELY_KEPT)])])
    widest = edges.diff().argmax()
    return (sizes > edges[widest : widest + 2].mean().exp()).double()


def _measure_residual(inputs: Tensor, gradient: Tensor) -> float:
    """Return the share of a gradient, by norm, that inputs (B, d) do not explain."""
    solution = torch.linalg.lstsq(inputs.T, gradient.T).solution
    return float((gradient.T - inputs.T @ solution).norm() / gradient.norm().clamp_min(LEAST))


def _correct_mask(mask: Tensor, activations: Tensor, gradient: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """Return a mask (B, units) with corrected entries: the entries that explain a column's residual on their own.

    If no entry does, the entry that explains most is changed. Changes that do not reduce the residual are rejected.

    Args:
        mask: first mask.
        activations: activations before the mask.
        gradient: gradient of the next layer.
        added: tensor that is added to the masked activations, in front of that layer.
    """
    for _ in range(_CORRECTIONS):
        inputs = added + mask * activations
        deltas = torch.linalg.lstsq(inputs.T, gradient.T).solution
        residual = gradient - deltas.T @ inputs
        signed = (1.0 - 2.0 * mask) * activations
        before = residual.square().sum(0)
        after = before - 2.0 * signed * (deltas @ residual) + signed.square() * deltas.square().sum(1, keepdim=True)
        best, example = after.min(0)
        units = (best < _EXPLAINED * before).nonzero()[:, 0]
        if not len(units):
            units = (before - best).argmax().view(1)
        changed = mask.clone()
        changed[example[units], units] = 1.0 - mask[example[units], units]
        if _measure_residual(added + changed * activations, gradient) >= float(before.sum().sqrt() / gradient.norm()):
            break
        mask = changed
    return mask


def _fit(rows: Tensor, values: Tensor, are_sure: Tensor) -> Tensor | None:
    """Return the combination (d,) of rows (R, d) that equals most of the values (d,) with sure entries, or None.

    Iteratively reweighted least squares on the L1 residual.
    """
    columns, wanted = rows[:, are_sure].T, values[are_sure]
    if len(wanted) < 2 * len(rows) or not bool(wanted.any()):
        return None
    size = wanted.square().mean().sqrt()
    weights, factors = torch.ones_like(wanted), torch.zeros(len(rows), dtype=rows.dtype)
    for smoothing in _SMOOTHINGS.tolist():
        factors = torch.linalg.lstsq(weights[:, None] * columns, (weights * wanted)[:, None]).solution[:, 0]
        weights = ((columns @ factors - wanted).abs() + smoothing * size).rsqrt()
    is_near = float((columns @ factors - wanted).abs().median()) < _CLEAR * size
    return factors @ rows if is_near else None


def forward_of(model: nn.Module, sites: Sequence[DropoutSite], examples: Tensor) -> Forward:
    """Return the forward pass of examples through a copy of a model in double precision."""
    doubled = copy.deepcopy(model).double().train()

    def forward(masks: list[Tensor]) -> tuple[list[tuple[str, Tensor]], Tensor]:
        with inputs_in_order(doubled, (nn.Linear,)) as seen, inject_masks(sites, tuple(masks)):
            outputs = doubled(examples.double())
        return seen, outputs

    return forward
