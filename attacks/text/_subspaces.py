"""Compute the span of an attention layer's inputs from its gradients, under noise of a known level.

The gradients of queries, keys and values are sums of products with the inputs x_t of their layer, so their rows span
the inputs if there are fewer inputs than the layer's width. The three gradients are divided by their noise level, added
noise or rounding (`noise_level`), and stacked to m rows of width d with singular values s_k and right singular vectors
v_k. Noise alone has no singular value above the edge sqrt(m) + sqrt(d) (Marchenko and Pastur). The hard projector keeps
all v_k above the edge. The soft projector is P = sum_k r_k / (r_k + m) v_k v_k^T, with r_k = s_k^2 minus the squared
edge, at least 0. The distance is D(x) = |x - P x|^2 / |x|^2, in [0, 1].

The first update of a fresh adapter B A has no gradient of A, since B is 0. The gradient of B is a sum of products with
A x_t, so its rows span the A x_t if there are fewer inputs than A has rows: then A x is tested instead of x.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.core.attention import kind_at
from attacks.core.noise_level import measured_levels
from attacks.core.tolerances import TINY
from fedsim.core.types import Observation, Tensors

_READING = re.compile(r"(base_layer\.)?weight|lora_[aA](\.\w+)?\.weight")  # after a layer's name: weights of its input
_FIRST = re.compile(r"\.lora_[aA](\.\w+)?\.weight$")  # the factor A, as fedsim and as peft call it


class Subspace(NamedTuple):
    """The span of a layer's inputs.

    Attributes:
        layer: name of the first layer with these inputs.
        outside: I - P, shape (d, d), double.
        size: trace of P, about the number of independent inputs.
        noise: largest singular value of noise alone, divided by the largest observed singular value.
        seen_by: matrix (d, w) that maps inputs to the space of the span; None for the identity.
    """

    layer: str
    outside: Tensor
    size: float
    noise: float
    seen_by: Tensor | None = None

    def distance(self, inputs: Tensor) -> Tensor:
        """Return the distance D of inputs (..., d), shape (...)."""
        seen = self.project_inputs(inputs)
        return (seen @ self.outside.to(inputs)).square().sum(-1) / seen.square().sum(-1).clamp_min(TINY)

    def project_inputs(self, inputs: Tensor) -> Tensor:
        """Return inputs (..., d) in the space of the span, shape (..., w)."""
        return inputs if self.seen_by is None else inputs @ self.seen_by.to(inputs)


def gradients_of(observation: Observation, layer: str) -> Tensors:
    """Return the shared gradients (m, d) of the layers with the same input as `layer`, by parameter.

    Args:
        observation: of a text model.
        layer: an element of `attentions`.
    """
    (place, dot, _), shared = layer.rpartition("."), observation.update.tensors
    kind = kind_at(observation.model.get_submodule(place))
    assert kind is not None, "callers pass a name from `attentions`"
    names = [
        name
        for reader in kind.readers
        for name in shared
        if name.startswith(start := f"{place}{dot}{reader}.") and _READING.fullmatch(name.removeprefix(start))
    ]
    owners = {name: name.rpartition(".")[0] for name in names}
    return {name: kind.rows(observation.model.get_submodule(owner), shared[name]) for name, owner in owners.items()}


def fresh_adapters(observation: Observation, layer: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return gradient (out, r) of B and weight (r, d) of A, by B's name, of adapters with zero gradient of A."""
    (place, dot, _), shared = layer.rpartition("."), observation.update.tensors
    kind, adapters = kind_at(observation.model.get_submodule(place)), dict[str, tuple[Tensor, Tensor]]()
    assert kind is not None, "callers pass a name from `attentions`"
    for reader in kind.readers:
        for first in (name for name in shared if name.startswith(f"{place}{dot}{reader}.") and _FIRST.search(name)):
            second = first.replace("lora_a", "lora_b").replace("lora_A", "lora_B")
            if second in shared and bool(shared[second].any()) and not bool(shared[first].any()):
                adapters[second] = shared[second], observation.model.get_parameter(first).detach()
    return adapters


def hard_behind(layer: str, adapters: Sequence[tuple[Tensor, Tensor, Sequence[float]]]) -> Subspace | None:
    """Return the hard projector on the inputs that fresh adapters show; None if all adapters have full rank.

    Adapters of queries miss the first token of a sentence, which attends only to itself. So only the adapters with the
    largest rank are used.

    Args:
        layer: first layer with these inputs.
        adapters: gradient (out, r) of B, weight (r, d) of A, and noise levels of each adapter.
    """
    spaces = [(hard(layer, {"b": gradient}, levels), gradient, weight) for gradient, weight, levels in adapters]
    open_spaces = [(space, weight) for space, gradient, weight in spaces if space.size < min(gradient.shape)]
    largest = max((space.size for space, *_ in spaces), default=0.0)
    kept = [(space, weight) for space, weight in open_spaces if space.size == largest]
    if not kept:
        return None
    return Subspace(
        layer,
        torch.block_diag(*(space.outside for space, _ in kept)),
        largest,
        max(space.noise for space, _ in kept),
        torch.cat([weight.double().T for _, weight in kept], 1),
    )


def subspace_of(observation: Observation, layer: str, tokens: int) -> Subspace | None:
    """Return the span of a layer's inputs with the soft projector, or None if none of its gradients is shared.

    Args:
        observation: a single gradient.
        layer: an element of `attentions`.
        tokens: maximal number of tokens in the batch; further directions measure the noise if its level is unknown.
    """
    shared = gradients_of(observation, layer)
    if not shared:
        return None
    return soft(layer, shared, measured_levels(observation, shared, tokens))


def soft(layer: str, gradients: Tensors, levels: Sequence[float]) -> Subspace:
    """Return the soft projector of gradients (m, d) whose entries have noise of these standard deviations."""
    return _subspace(layer, _scale_gradients(gradients, levels), lambda signal, rows: signal / (signal + rows))


def hard(layer: str, gradients: Tensors, levels: Sequence[float]) -> Subspace:
    """Return the projector on all directions above the noise edge."""
    return _subspace(layer, _scale_gradients(gradients, levels), lambda signal, _rows: (signal > 0.0).double())


def _subspace(layer: str, stacked: Tensor, share: Callable[[Tensor, int], Tensor]) -> Subspace:
    """Return the projector sum_k share(r_k, m) v_k v_k^T of stacked gradients (m, d)."""
    (rows, width), edge = stacked.shape, _edge(stacked)
    _, singular, directions = torch.linalg.svd(stacked, full_matrices=False)
    shares = share((singular.square() - edge**2).clamp_min(0.0), rows)
    projection = torch.eye(width, dtype=torch.float64) - (directions.T * shares) @ directions
    return Subspace(layer, projection, float(shares.sum()), edge / float(singular[0].clamp_min(TINY)))


def rank(gradients: Tensors, levels: Sequence[float]) -> int:
    """Return the size of `hard`, computed from singular values alone."""
    stacked = _scale_gradients(gradients, levels)
    return int((torch.linalg.svdvals(stacked) > _edge(stacked)).sum())


def _scale_gradients(gradients: Tensors, levels: Sequence[float]) -> Tensor:
    return torch.cat([gradient.double() / level for gradient, level in zip(gradients.values(), levels, strict=True)])


def _edge(stacked: Tensor) -> float:
    rows, width = stacked.shape
    return math.sqrt(rows) + math.sqrt(width)
