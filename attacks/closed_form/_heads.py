"""Start of a recursion: inputs and logit gradients of the last layer, from the layer's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.closed_form._sequential_network import SequentialLayer
from attacks.core.head_features import Head, separate_features
from attacks.core.labels import examples_of, label_of_one, labels_of
from fedsim.core.types import Observation, Tensors

_LARGEST_ODDS = 30.0
_CELLS, _ZOOMS = 1000, 4
_BISECTIONS = 60
_FITS = 1e-3
_BLURRED = 1e-3  # relative error of inputs above which the solutions of all earlier layers would be wrong
_ABOVE_ROUNDING = 1.0  # in standard errors: a smaller entry of a batch's input counts as zero


def heads_of(observation: Observation, layer: SequentialLayer, gradients: Tensors) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of k = dL/dz (B, K) and inputs (B, D) of the last layer; none if its examples cannot be separated.

    For a single example with a bias, k is the bias gradient; without a bias see `head_scales`. Batches are separated.
    """
    if examples_of(observation) == 1:
        return [(k[None], features[None]) for k, features in _heads_of_one(observation, layer, gradients)]
    head = Head(layer.weight, layer.bias, gradients[f"{layer.name}.weight"], gradients.get(f"{layer.name}.bias"))
    separated = separate_features(head, labels_of(observation), torch.Generator().manual_seed(0))
    if separated is None or separated.accuracy > _BLURRED:
        return []
    is_silent = separated.inputs.abs() <= _ABOVE_ROUNDING * separated.accuracy * separated.inputs.abs().amax()
    return [(separated.errors, separated.inputs.masked_fill(is_silent, 0.0))]


def _heads_of_one(observation: Observation, layer: SequentialLayer, gradients: Tensors) -> list[tuple[Tensor, Tensor]]:
    weight = gradients[f"{layer.name}.weight"]
    k = gradients.get(f"{layer.name}.bias")
    if k is not None and bool(k.any()):
        return [(k, weight.T @ k / k.square().sum())]
    left = torch.linalg.eigh(weight @ weight.T).eigenvectors[:, -1]
    heads: list[tuple[Tensor, Tensor]] = []
    for label in _possible_labels(observation, weight):
        unit = -left * left[label].sign()
        row = unit @ weight
        heads += [(c * unit, row / c) for c in head_scales(layer.weight, layer.bias, unit, row, label)]
    return heads


def _possible_labels(observation: Observation, weight: Tensor) -> list[int]:
    """Return the granted or inferred label; both of two classes, since without a bias their rows are opposite."""
    if observation.labels is not None:
        return observation.labels.tolist()
    return [0, 1] if len(weight) == 2 else label_of_one(weight, None).tolist()  # noqa: PLR2004 - two classes


def head_scales(weight: Tensor, bias: Tensor | None, left: Tensor, row: Tensor, label: int) -> list[float]:
    """Return the lengths c of k = c u that explain a last weight gradient u r^T, best first, at least one.

    The input is r / c, so softmax(W r / c + b) - onehot(y) = c u. For two classes without a bias this is R-GAP's
    equation -mu / (1 + exp(mu)) = <W, dW> of the margin mu, with up to two roots; more classes exclude the wrong root.

    Args:
        weight: W of the last layer, shape (K, D).
        bias: b, shape (K,), or None.
        left: unit vector u, shape (K,), negative at the label.
        row: r, shape (D,).
        label: y.
    """
    step, offset = weight @ row, 0.0 if bias is None else bias
    other_classes = [index for index in range(len(weight)) if index != label]

    def outcome(odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return lengths c (N,) for log odds of the label (N,), and the resulting scores (N, K) and log odds."""
        lengths = odds.neg().sigmoid() / left[label].abs()
        scores = step / lengths[:, None] + offset
        return lengths, scores, scores[:, label] - scores[:, other_classes].logsumexp(1)

    def surplus(odds: Tensor) -> Tensor:
        return outcome(odds)[2] - odds

    roots = torch.tensor(_roots(surplus, -_LARGEST_ODDS, _LARGEST_ODDS, _ZOOMS), dtype=torch.float64)
    lengths, scores, odds = outcome(roots)
    errors = scores.softmax(1)
    errors[:, label] = -odds.neg().sigmoid()
    misfits = (errors - lengths[:, None] * left).norm(dim=1) / lengths
    order = misfits.argsort()
    fitting = order[misfits[order] < _FITS]
    return lengths[fitting if len(fitting) else order[:1]].tolist()


def _roots(function: Callable[[Tensor], Tensor], low: float, high: float, zooms: int) -> list[float]:
    """Return roots between two points, also near minima of |function|: two roots may lie in one cell of the grid."""
    grid = torch.linspace(low, high, _CELLS + 1, dtype=torch.float64)
    values = function(grid)
    changes = (values[:-1].sign() != values[1:].sign()).nonzero().flatten()
    lower, upper = grid[changes], grid[changes + 1]
    for _ in range(_BISECTIONS):
        middle = (lower + upper) / 2
        same = function(middle).sign() == function(lower).sign()
        lower, upper = torch.where(same, middle, lower), torch.where(same, upper, middle)
    roots = lower.tolist()
    sizes = values.abs()
    dips = ((sizes[1:-1] <= sizes[:-2]) & (sizes[1:-1] <= sizes[2:])).nonzero().flatten() + 1
    for dip in dips.tolist():
        if {dip - 1, dip} & set(changes.tolist()):
            continue
        roots += (
            [float(grid[dip])] if not zooms else _roots(function, float(grid[dip - 1]), float(grid[dip + 1]), zooms - 1)
        )
    return roots or [float(grid[sizes.argmin()])]
