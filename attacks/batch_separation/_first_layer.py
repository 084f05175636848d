"""First layer of attacks on whole batches: its gradient as a matrix, and reconstructions from its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.gradient_distance import MeasuredObjective, doubts, knows_rates, may_be_exact, verdict
from attacks.core.layers import Behind, PixelLayer, examples_from, first_linear, layer_behind
from attacks.core.masks_by_layer import Peeled, peel
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import labels_or_unknown
from attacks.core.scale_and_sign import largest_in_range, outside_row_space, signed_scales
from attacks.core.spans import even_rows, even_spectrum, share_outside, span_of
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import MATCHES
from fedsim.core.types import Masks, Observation, Reconstruction

_MATTERS = 1e-4  # relative to the largest example gradient: the square of smaller ones is below any threshold
_LITTLE = 1e-2  # of the first gradient: the unexplained part of deeper layers is then as small


@dataclass(frozen=True)
class FirstLayer:
    """A first linear layer z = W x + b, in float64. The bias is a further column with an input of 1.

    Attributes:
        layer: the layer and the position of each pixel in its input.
        gradient: dL/d[W | b], shape (h, columns).
        weight: [W | b], shape (h, columns).
        has_bias: whether the last column is the bias.
        behind: the next linear layer, if its gradient is shared.
    """

    layer: PixelLayer
    gradient: Tensor
    weight: Tensor
    has_bias: bool
    behind: Behind | None


def first_layer(observation: Observation) -> FirstLayer | None:
    """Return the linear layer that reads the flattened example, or None."""
    layer = first_linear(observation)
    if layer is None:
        return None
    tensors = observation.update.tensors
    has_bias = f"{layer.name}.bias" in tensors
    names = [f"{layer.name}.weight", f"{layer.name}.bias"][: 2 if has_bias else 1]
    columns = [(tensors[name].double(), observation.model.get_parameter(name).detach().double()) for name in names]
    gradient, weight = (torch.column_stack(parts) for parts in zip(*columns, strict=True))
    return FirstLayer(layer, gradient, weight, has_bias, layer_behind(observation, layer.name))


def batch_refusal(observation: Observation) -> str | None:
    """Return why a batch cannot be separated at the first linear layer, or None."""
    if observation.batch_size == 1:
        return "a single example needs no search; closed-form-linear solves it"
    first = first_layer(observation)
    if first is None:
        return "no linear layer sees the flattened input"
    if not first.has_bias and first.behind is None:
        return f"layer '{first.layer.name}' has no bias, and no linear layer behind it shows the scale"
    return one_gradient_only(observation)


def row_space_behind(observation: Observation, next_layer: Behind, limit: int) -> Tensor:
    """Return orthonormal rows (R, h), R at most `limit`, that span the inputs of the next layer."""
    gradient = observation.update.tensors[f"{next_layer.name}.weight"].double()
    _, singular, right = torch.linalg.svd(even_rows(gradient), full_matrices=False)
    read = even_spectrum(singular, limit=limit)
    return right[: read.rank] if read.is_exact else span_of(gradient, limit=limit)[0]


def scale(
    observation: Observation, first: FirstLayer, rows: Tensor, kept: Tensor, row_space: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return inputs (k, columns), known up to a factor, with their scale and sign.

    Scale and sign follow from the bias, whose input is 1; without a bias, from the next layer's row space.

    Args:
        observation: gives the pixel range, used if the activation does not determine the scale.
        first: the layer that read the inputs.
        rows: inputs up to factors.
        kept: 1 for units that are surely kept, shape (k, h).
        row_space: row space of the next layer's inputs; needed without a bias.

    Returns:
        The inputs (k, pixels), and the distance of the next layer's inputs from the row space, in [0, 1], shape (k,); 0
        without a row space.
    """
    if first.has_bias:
        rows = rows / rows[:, -1:]
        if first.behind is None or row_space is None:
            return rows[:, :-1], torch.zeros(len(rows))
        seen = first.behind.inputs(rows @ first.weight.T)
        return rows[:, :-1], outside_row_space(seen, kept, row_space).norm(dim=1)
    assert first.behind is not None
    assert row_space is not None
    rows = rows / rows.square().mean(1, keepdim=True).sqrt()
    scales = signed_scales(first.behind.inputs, rows @ first.weight.T, kept, row_space)
    rows = rows * scales.values.sign()[:, None]
    in_range = largest_in_range(examples_from(rows, first.layer, observation).double(), observation)
    return rows * torch.where(scales.is_identified, scales.values.abs(), in_range)[:, None], scales.residuals


def whole_batch(
    observation: Observation,
    examples: Tensor,
    residual: tuple[float, str],
    rounds: int,
    notes: tuple[str, ...],
    diagnostics: Mapping[str, float],
) -> Reconstruction:
    """Return the recovered examples (k, *shape) with masks and labels, solved layer by layer.

    Args:
        observation: with an exact gradient.
        examples: in any order.
        residual: of the attack's own equations, with its name; the objective if gradients cannot be compared.
        rounds: number of rounds of the search.
        notes: notes about the search.
        diagnostics: figures of the search.
    """
    inner = peel(observation, examples)
    masks = inner.masks if knows_rates(observation) else None
    labels, read = label_guess(observation, examples, masks, inner.labels)
    objective, meaning = _measure_distance(observation, examples, inner, labels, masks, residual)
    silent = (observation.batch_size or len(examples)) - len(examples)
    return Reconstruction.of(
        inputs=examples,
        labels=labels,
        masks=(masks or None) if not silent else None,
        objective=objective,
        iterations=rounds,
        stop_reason="all examples separated" if objective < MATCHES else "separated, but the gradient is not matched",
        notes=(
            *notes,
            f"{len(examples)} examples show in the gradient, {silent} do not",
            meaning,
            *read,
            *doubts(observation),
        ),
        diagnostics=diagnostics,
        is_exact=objective < MATCHES
        and may_be_exact(observation, objective)
        and (masks is not None or inner.holds),  # else nothing confirms the labels
    )


def part_of_batch(
    observation: Observation,
    first: FirstLayer,
    examples: Tensor,
    size: int,
    rounds: int,
    stopped: str,
    notes: tuple[str, ...],
    diagnostics: Mapping[str, float],
) -> Reconstruction:
    """Return the examples (k, *shape) that were recovered of `size`, and no masks.

    The objective is the share of the first gradient, by norm, outside the span of the recovered examples. If this share
    is small, labels are solved for. If the recovered examples then explain the client's gradient, the missing examples
    contribute only rounding.
    """
    labels, rest_of_update = (
        labels_or_unknown(observation, size)[: len(examples)],
        _measure_unexplained_share(first, examples),
    )
    distance = 1.0
    if rest_of_update < _LITTLE:
        inner = peel(observation, examples)
        masks = inner.masks if knows_rates(observation) else None
        labels = label_guess(observation, examples, masks, labels if inner.labels is None else inner.labels).labels
        distance = _measure_distance(observation, examples, inner, labels, masks, (1.0, ""))[0]
    return Reconstruction.of(
        inputs=examples,
        labels=labels,
        objective=rest_of_update,
        iterations=rounds,
        stop_reason=stopped,
        notes=(
            *notes,
            f"{len(examples)} examples found, {size - len(examples)} are missing",
            "objective: share of the first gradient that the found examples do not explain",
        ),
        diagnostics=diagnostics,
        # With all examples recovered, the unexplained part of the first gradient is a disturbance, however small.
        is_exact=len(examples) < size and distance < MATCHES and may_be_exact(observation, distance),
    )


def _measure_distance(
    observation: Observation,
    examples: Tensor,
    inner: Peeled,
    labels: Tensor,
    masks: Masks | None,
    residual: tuple[float, str],
) -> MeasuredObjective:
    """Return the gradient distance of the examples with a measurable gradient.

    Masks of an example with a vanished loss are hidden by rounding, and wrong masks would give it a nonzero loss.
    """
    if inner.deltas is None or masks is None:
        return verdict(observation, examples, labels, masks, residual)
    sizes = inner.deltas.norm(dim=1)
    matter = sizes > _MATTERS * sizes.max()
    chosen = tuple(mask.unflatten(0, (len(examples), -1))[matter].flatten(0, 1) for mask in masks)
    return verdict(observation, examples[matter], labels[matter], chosen, residual)


def _measure_unexplained_share(first: FirstLayer, examples: Tensor) -> float:
    rows = torch.zeros(len(examples), first.gradient.shape[1], dtype=torch.float64)
    rows[:, : first.layer.pixels.shape[1]] = examples.double().flatten(1)[:, first.layer.pixels[0]]
    if first.has_bias:
        rows[:, -1] = 1.0
    return share_outside(first.gradient, rows)
