"""How far a vector lies outside what an attention layer read, without a threshold: a soft projector.

The gradients of queries, keys and values are sums of products with the inputs x_t of their layer, so their rows span
these inputs, as long as there are fewer of them than the layer is wide. The three are stacked in units of their noise,
be it added or rounding, to m rows of width d with singular values s_k and right singular vectors v_k. Noise alone has
none above sqrt(m) + sqrt(d) (Marchenko and Pastur). With r_k = s_k^2 less its square, and no less than 0,
P = sum_k r_k / (r_k + m) v_k v_k^T, and the distance is D(x) = |x - P x|^2 / |x|^2, in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attacks._public import noise_of
from fedsim.types import Observation

_ROUNDING = 1e-5  # of the entries' root mean square: noise below is that of single precision
_FEWEST_FREE = 8
_STEPS = 4.0
_TINY = 1e-30
_PARTS = ("q_proj", "k_proj", "v_proj")


class Subspace(NamedTuple):
    """What a layer read.

    Attributes:
        layer: name of the query projection, which reads it.
        outside: I - P, shape (d, d), double.
        size: sum of the shares r / (r + m): about the number of independent inputs.
        noise: largest singular value that noise alone has, in units of the largest one.
    """

    layer: str
    outside: Tensor
    size: float
    noise: float

    def distance(self, inputs: Tensor) -> Tensor:
        """Return D of inputs (..., d), shape (...)."""
        outside = self.outside.to(inputs)
        return (inputs @ outside).square().sum(-1) / inputs.square().sum(-1).clamp_min(_TINY)


def attentions(model: nn.Module) -> list[str]:
    """Return the names of the query projections, first block first."""
    return [name for name, m in model.named_modules() if name.endswith(_PARTS[0]) and isinstance(m, nn.Linear)]


def subspace_of(observation: Observation, query: str, tokens: int) -> Subspace | None:
    """Return what a layer read, or None if none of its three gradients is shared.

    Args:
        observation: of one gradient.
        query: name of its query projection.
        tokens: that the batch has at most; directions beyond them show the noise, if it is not known.
    """
    shared = {
        name: observation.update.tensors[name].double()
        for name in (f"{query.removesuffix(_PARTS[0])}{part}.weight" for part in _PARTS)
        if name in observation.update.tensors
    }
    if not shared:
        return None
    levels = _noise_levels(observation, shared, tokens)
    stacked = torch.cat([tensor / level for tensor, level in zip(shared.values(), levels, strict=True)])
    rows, width = stacked.shape
    _, singular, directions = torch.linalg.svd(stacked, full_matrices=False)
    edge = (math.sqrt(rows) + math.sqrt(width)) ** 2
    signal = (singular.square() - edge).clamp_min(0.0)
    shares = signal / (signal + rows)
    outside = torch.eye(width, dtype=torch.float64) - (directions.T * shares) @ directions
    return Subspace(query, outside, float(shares.sum()), math.sqrt(edge) / float(singular[0]))


def _noise_levels(observation: Observation, shared: Mapping[str, Tensor], tokens: int) -> list[float]:
    """Return the standard deviation of the noise on the entries of each gradient (m, d): stated, or else measured.

    It is no less than some steps of rounding, which unlike noise is no equal share of every direction. Noise on a
    matrix leaves (m - t) (d - t) times its variance beyond the t largest singular values. Where a matrix has no such
    values, its level is that of the widest one; in proportion to its norm, if that is no more than rounding.
    """
    noise, names, gradients = noise_of(observation), list(shared), list(shared.values())
    if noise is not None:
        units = [float(g.square().mean().sqrt()) if noise.is_relative else 1.0 for g in gradients]
        return [max(math.sqrt(noise.share) * noise.scale * unit, _TINY) for unit in units]
    measured = [_measured_level(gradient, tokens) for gradient in gradients]
    sizes = [float(gradient.square().mean().sqrt()) for gradient in gradients]
    widest = max(range(len(gradients)), key=lambda index: min(gradients[index].shape))
    level = measured[widest] or 0.0
    is_rounding = level < _ROUNDING * sizes[widest]
    others = [level * size / max(sizes[widest], _TINY) if is_rounding else level for size in sizes]
    levels = [own if own is not None else other for own, other in zip(measured, others, strict=True)]
    floors = [_STEPS * torch.finfo(observation.update.tensors[name].dtype).eps for name in names]
    return [max(own, floor * size, _TINY) for own, floor, size in zip(levels, floors, sizes, strict=True)]


def _measured_level(gradient: Tensor, tokens: int) -> float | None:
    """Return the level beyond the `tokens` largest singular values, or None where there are too few of these."""
    rows, width = gradient.shape
    if min(rows, width) - tokens < _FEWEST_FREE:
        return None
    beyond = torch.linalg.svdvals(gradient)[tokens:].square().sum()
    return math.sqrt(float(beyond) / ((rows - tokens) * (width - tokens)))


class _Read(Exception):
    """All layers that were asked for have read."""


def read_by(
    model: nn.Module, layers: Sequence[str], inputs: Tensor, dropping: AbstractContextManager[None]
) -> list[Tensor]:
    """Return what layers read, each (B, T, width); the model stops behind the last one.

    Args:
        model: left as it was.
        layers: names of modules, in the order in which they read.
        inputs: tokens (B, T).
        dropping: context of the forward pass.
    """
    seen: dict[str, Tensor] = {}

    def note(name: str, read: Tensor) -> None:
        seen[name] = read
        if len(seen) == len(layers):
            raise _Read

    def watched(name: str) -> RemovableHandle:
        return model.get_submodule(name).register_forward_pre_hook(lambda _module, read: note(name, read[0]))

    handles = [watched(name) for name in layers]
    try:
        with dropping:
            model(inputs)
    except _Read:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [seen[name] for name in layers]
