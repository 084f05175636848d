"""A batch's first weight gradient as a product, and what follows once its column space has a sparse basis.

G = D X with columns of D for the examples' output gradients and rows of X for their inputs: a singular value
decomposition gives G = U R with U = D Q for an unknown square Q. Who finds the columns of D in the space of U has X,
then scales, masks and labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from attacks._agreement import knows_rates, verdict
from attacks._failure import grey_images, labels_or_zeros
from attacks._layers import PixelLayer, examples_from, first_linear, layer_behind
from attacks._matching import one_gradient_only
from attacks._peeling import peeled
from attacks._scale import largest_in_range, signed_scales
from attacks._sparsest import ZERO, Sparse, entries
from fedsim.types import Observation, Reconstruction

_SURELY_KEPT = 1e-3
_UNITS_PER_EXAMPLE = 4
_MATCHES = 1e-5


class Factors(NamedTuple):
    """G = basis @ right, up to rows of zeros.

    Attributes:
        basis: shape (live rows, R), orthonormal columns.
        right: shape (R, pixels), or (R, pixels + 1) with the bias as last column.
        live: True for rows of the gradient that are not zero, shape (h,).
    """

    basis: Tensor
    right: Tensor
    live: Tensor


def batch_refusal(observation: Observation) -> str | None:
    """Return why a batch cannot be separated at the first linear layer, or None."""
    if observation.batch_size == 1:
        return "a single example needs no search; closed-form-linear solves it"
    layer = first_linear(observation)
    if layer is None:
        return "no linear layer sees the flattened input"
    has_bias = f"{layer.name}.bias" in observation.update.tensors
    if not has_bias and layer_behind(observation, layer.name) is None:
        return f"layer '{layer.name}' has no bias and no linear layer behind it that would show the scale"
    return one_gradient_only(observation)


def factors_of(observation: Observation, layer: PixelLayer, rank_tolerance: float) -> Factors:
    """Decompose the layer's weight gradient, with the bias gradient where there is one, in float64.

    Args:
        observation: what the attack got.
        layer: the first linear layer.
        rank_tolerance: singular values below this share of the largest count as zero.
    """
    gradient = observation.update.tensors[f"{layer.name}.weight"].double()
    bias = observation.update.tensors.get(f"{layer.name}.bias")
    if bias is not None:
        gradient = torch.cat([gradient, bias.double()[:, None]], 1)
    live = gradient.any(1)
    left, singular, right = torch.linalg.svd(gradient[live], full_matrices=False)
    rank = int((singular > rank_tolerance * singular[0]).sum())
    return Factors(left[:, :rank], singular[:rank, None] * right[:rank], live)


def hopeless(factors: Factors, size: int) -> str | None:
    """Return why no search can separate `size` examples, or None."""
    units, rank = factors.basis.shape
    if rank > size:
        return f"gave up: numerical rank {rank} exceeds the batch size {size}, so the gradient is not exact"
    if units < _UNITS_PER_EXAMPLE * rank:
        return f"gave up: {units} units cannot tell {rank} examples apart, at least {_UNITS_PER_EXAMPLE * rank} could"
    return None


def separated(
    observation: Observation,
    layer: PixelLayer,
    factors: Factors,
    found: Sparse,
    iterations: int,
    facts: Mapping[str, float],
) -> Reconstruction:
    """Invert the complete basis, then find masks and labels.

    Args:
        observation: what the attack got.
        layer: the first linear layer.
        factors: of its gradient.
        found: R independent vectors q whose U q are columns of D.
        iterations: what the search counted.
        facts: figures of the search.
    """
    residual = (_residual(factors, found), "relative residual of the first gradient, zeros enforced")
    examples = examples_from(inputs_of(observation, layer, factors, found), layer, observation)
    inner = peeled(observation, examples)
    labels = inner.labels if inner.labels is not None else labels_or_zeros(observation, len(examples))
    masks = inner.masks if knows_rates(observation) else None
    objective, meaning = verdict(observation, examples, labels, masks, residual)
    silent = grey_images(observation, (observation.batch_size or len(examples)) - len(examples))
    return Reconstruction(
        inputs=torch.cat([examples, silent]),
        labels=torch.cat([labels, labels.mode().values.expand(len(silent))]),
        masks=(masks or None) if not len(silent) else None,
        objective=objective,
        iterations=iterations,
        best_iteration=iterations,
        history=((iterations, objective),),
        stopped="all examples separated" if objective < _MATCHES else "separated, but the gradient is not matched",
        notes=(
            f"layer '{layer.name}' sees the pixels",
            f"{len(examples)} examples left a trace, {len(silent)} did not and are grey",
            f"exact zeros a separated example: {float(found.zero_shares.min()):.0%} or more",
            meaning,
        ),
        facts={
            "numerical rank": float(len(factors.right)),
            "condition number": float(torch.linalg.cond(found.vectors)),
            "zero share": float(found.zero_shares.mean()),
            "residual": residual[0],
            **facts,
        },
    )


def inputs_of(observation: Observation, layer: PixelLayer, factors: Factors, found: Sparse) -> Tensor:
    """Return the layer's inputs (R, pixels) for a complete basis, with scale and sign."""
    rows = torch.linalg.solve(found.vectors.T, factors.right)
    if f"{layer.name}.bias" in observation.update.tensors:
        return rows[:, :-1] / rows[:, -1:]
    return _scaled(observation, layer, factors, found, rows)


def _residual(factors: Factors, found: Sparse) -> float:
    rows = torch.linalg.solve(found.vectors.T, factors.right)
    nonzero = entries(factors.basis, found.vectors).abs().T > ZERO
    rebuilt = (factors.basis @ found.vectors.T * nonzero) @ rows
    return float((rebuilt - factors.basis @ factors.right).norm() / factors.right.norm())


def _scaled(observation: Observation, layer: PixelLayer, factors: Factors, found: Sparse, rows: Tensor) -> Tensor:
    """Give rows (R, pixels) without bias the scale and sign that the next layer's row space demands."""
    behind = layer_behind(observation, layer.name)
    assert behind is not None
    compared = torch.zeros(len(rows), len(factors.live), dtype=torch.float64)
    compared[:, factors.live] = entries(factors.basis, found.vectors).abs().gt(_SURELY_KEPT).double()
    rows = rows / rows.square().mean(1, keepdim=True).sqrt()
    gradient = observation.update.tensors[f"{behind.name}.weight"].double()
    row_space = torch.linalg.svd(gradient, full_matrices=False).Vh[: len(rows)]
    weight = observation.model.get_parameter(f"{layer.name}.weight").detach().double()
    scales = signed_scales(behind.inputs, rows @ weight.T, compared, row_space)
    rows = rows * scales.values.sign()[:, None]
    in_range = largest_in_range(examples_from(rows, layer, observation).double(), observation)
    return rows * torch.where(scales.identified, scales.values.abs(), in_range)[:, None]
