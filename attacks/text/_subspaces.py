"""The span of an attention layer's inputs, from its gradients under noise of a known level.

The gradients of queries, keys and values are sums of products with the inputs x_t of their layer, so their rows span
these, as long as there are fewer inputs than the layer is wide. The three gradients are stacked, in units of their
noise, added or from rounding (`noise_level`), to m rows of width d with singular values s_k and right singular vectors
v_k. Noise alone has no singular value above the edge sqrt(m) + sqrt(d) (Marchenko and Pastur). The hard projector keeps
all v_k above the edge. The soft one is P = sum_k r_k / (r_k + m) v_k v_k^T, with r_k = s_k^2 less the squared edge, at
least 0. The distance is D(x) = |x - P x|^2 / |x|^2, in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.attention import kind_at
from attacks.core.noise_level import measured_levels
from attacks.core.tolerances import TINY
from fedsim.core.types import Observation, Tensors

_PARTS = ("weight", "lora_a.weight")  # parameters whose gradient's rows are combinations of the layer's inputs


class Subspace(NamedTuple):
    """The span of a layer's inputs.

    Attributes:
        layer: name of the first layer with these inputs.
        outside: I - P, shape (d, d), double.
        size: about the number of independent inputs: the trace of P.
        noise: largest singular value of noise alone, in units of the largest one.
    """

    layer: str
    outside: Tensor
    size: float
    noise: float

    def distance(self, inputs: Tensor) -> Tensor:
        """Return the distance D of inputs (..., d), shape (...)."""
        outside = self.outside.to(inputs)
        return (inputs @ outside).square().sum(-1) / inputs.square().sum(-1).clamp_min(TINY)


def gradients_of(observation: Observation, layer: str) -> Tensors:
    """Return the shared gradients, rows (m, d), of the layers with the same input as `layer`; by parameter.

    Args:
        observation: of a model of text.
        layer: one of `attentions`.
    """
    (place, dot, _), shared = layer.rpartition("."), observation.update.tensors
    kind = kind_at(observation.model.get_submodule(place))
    assert kind is not None, "callers name one of `attentions`"
    names = [f"{place}{dot}{reader}.{part}" for reader in kind.readers for part in _PARTS]
    owners = {name: name.rpartition(".")[0] for name in names if name in shared}
    return {name: kind.rows(observation.model.get_submodule(owner), shared[name]) for name, owner in owners.items()}


def subspace_of(observation: Observation, layer: str, tokens: int) -> Subspace | None:
    """Return the span of a layer's inputs with the soft projector, or None if none of its gradients is shared.

    Args:
        observation: one gradient.
        layer: one of `attentions`.
        tokens: most tokens in the batch; further directions show the noise, if it is not known.
    """
    shared = gradients_of(observation, layer)
    if not shared:
        return None
    return soft(layer, shared, measured_levels(observation, shared, tokens))


def soft(layer: str, gradients: Tensors, levels: Sequence[float]) -> Subspace:
    """Return the soft projector of gradients (m, d) whose entries have noise of these standard deviations."""
    stacked = _in_units(gradients, levels)
    rows, width = stacked.shape
    _, singular, directions = torch.linalg.svd(stacked, full_matrices=False)
    signal = (singular.square() - _edge(stacked) ** 2).clamp_min(0.0)
    shares = signal / (signal + rows)
    outside = torch.eye(width, dtype=torch.float64) - (directions.T * shares) @ directions
    return Subspace(layer, outside, float(shares.sum()), _edge(stacked) / float(singular[0].clamp_min(TINY)))


def hard(layer: str, gradients: Tensors, levels: Sequence[float]) -> Subspace:
    """Return the projector on all directions above the edge of the noise."""
    stacked = _in_units(gradients, levels)
    _, singular, directions = torch.linalg.svd(stacked, full_matrices=False)
    basis = directions[singular > _edge(stacked)]
    outside = torch.eye(stacked.shape[1], dtype=torch.float64) - basis.T @ basis
    return Subspace(layer, outside, float(len(basis)), _edge(stacked) / float(singular[0].clamp_min(TINY)))


def rank(gradients: Tensors, levels: Sequence[float]) -> int:
    """Return the size of `hard` in less time."""
    stacked = _in_units(gradients, levels)
    return int((torch.linalg.svdvals(stacked) > _edge(stacked)).sum())


def _in_units(gradients: Tensors, levels: Sequence[float]) -> Tensor:
    return torch.cat([gradient.double() / level for gradient, level in zip(gradients.values(), levels, strict=True)])


def _edge(stacked: Tensor) -> float:
    rows, width = stacked.shape
    return math.sqrt(rows) + math.sqrt(width)
