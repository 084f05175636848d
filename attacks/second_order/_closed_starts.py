"""Closed-form starts: a stage's input up to a few unknown factors, from the gradient of its first convolution.

That gradient is a sum over positions of derivatives times patches. With no more positions than channels its rows span
all patches, which are linear in the input, so the input solves homogeneous linear equations. With overlapping patches
it is known up to a factor; with stride 2, up to the scales of its parts that no patch shares. Batch norm subtracts the
mean of the derivatives, and therefore of the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.tolerances import EXACT
from attacks.second_order._stage_facts import StageFacts
from fedsim.core.types import Tensors

_NOTHING = 1e-3  # relative to the largest singular value: rounding for an input that solves all equations
_SCALES = torch.logspace(-1.0, 1.0, 41, dtype=torch.float64)
_COMBINATIONS = 2
_LARGEST = 1024  # entries of an input


def closed_starts(
    facts: StageFacts,
    received: Tensors,
    generator: torch.Generator,
    judge: Callable[[Tensor], float],
    *,
    is_positive: bool,
) -> Iterator[Tensor]:
    """Yield inputs (B, ...), if the gradient determines them up to a few factors.

    Args:
        facts: facts of the stage.
        received: gradients by name.
        generator: draws combinations.
        judge: score of an input, lower is better.
        is_positive: whether a ReLU precedes the input.
    """
    basis = input_space(facts, received)
    if basis is None:
        return
    if len(basis) == 1:
        yield _scale_direction(basis[0].view(facts.shape), facts.size, judge)
        return
    sparse = _sparsest(basis, facts.shape) if is_positive else None
    if sparse is not None:
        yield _scale_direction(sparse, facts.size, judge)
    for _ in range(_COMBINATIONS):
        weights = torch.randn(len(basis), generator=generator, dtype=torch.float64)
        yield _scale_direction((weights @ basis).view(facts.shape), facts.size, judge)


def _scale_direction(direction: Tensor, size: float, judge: Callable[[Tensor], float]) -> Tensor:
    """Return the best multiple of a direction, of either sign."""
    unit = direction * (size / direction.square().mean()).sqrt()
    return min((factor * unit for factor in torch.cat([_SCALES, -_SCALES])), key=judge)


def _sparsest(basis: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Return the nonnegative input of the least sum whose first 2 x 2 positions sum to 1, or None."""
    from scipy.optimize import linprog  # noqa: PLC0415 - takes long to import

    inputs = basis.view(-1, *shape)
    first = inputs[..., :2, :2].flatten(1).sum(1)
    rows, sums = basis.T.numpy(), first[None].numpy()
    free = [(None, None)] * len(basis)
    solved = linprog(rows.sum(0), A_ub=-rows, b_ub=[0.0] * len(rows), A_eq=sums, b_eq=[1.0], bounds=free)
    return torch.einsum("q,q...->...", torch.as_tensor(solved.x), inputs) if solved.success else None


def input_space(facts: StageFacts, received: Tensors) -> Tensor | None:
    """Return an orthonormal basis (q, n) of the inputs whose patches lie in the gradient's row space, or None."""
    convolution = _first_convolution(facts)
    if convolution is None or facts.unknowns > _LARGEST:
        return None
    name, layer = convolution
    gradient = received[f"{name}.weight"].flatten(1)
    patches = _patches(layer, facts.shape)  # (n, patch, places)
    places = patches.shape[2]
    if places > min(len(gradient), gradient.shape[1] - 1):
        return None
    if facts.centres:
        patches = patches - patches.mean(2, keepdim=True)
    _, sizes, rows = torch.linalg.svd(gradient)
    rank = int((sizes > EXACT * sizes[0]).sum())
    outside_rows = torch.einsum("rk,nkp->rpn", rows[min(rank, places) :], patches).flatten(0, 1)
    values, vectors = torch.linalg.eigh(outside_rows.T @ outside_rows)
    is_free = values < _NOTHING**2 * values[-1]
    return vectors.T[is_free] if bool(is_free.any()) else None


def _first_convolution(facts: StageFacts) -> tuple[str, nn.Conv2d] | None:
    """Return the convolution of the largest kernel that reads the input, if its gradient was sent."""
    module = facts.stage.module
    (source,) = (node for node in module.graph.nodes if node.op == "placeholder")
    names = [str(user.target) for user in source.users if user.op == "call_module"]
    layers = [(name, layer) for name in names if isinstance(layer := module.get_submodule(name), nn.Conv2d)]
    plain = [
        named_layer
        for named_layer in layers
        if named_layer[1].groups == 1 and not isinstance(named_layer[1].padding, str)
    ]
    fitting = [
        named_layer
        for named_layer in plain
        if named_layer[1].padding_mode == "zeros" and f"{named_layer[0]}.weight" in facts.stage.names
    ]
    return max(fitting, key=lambda named_layer: named_layer[1].weight[0].numel(), default=None)


def _patches(layer: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """Return the patches of every unit input, shape (n, patch, positions of the batch)."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(-1, *shape[1:])
    conv: Any = layer
    cut = F.unfold(units, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    return cut.view(size, shape[0], *cut.shape[1:]).transpose(1, 2).flatten(2)
