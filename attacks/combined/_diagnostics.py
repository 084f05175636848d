"""Diagnostics of a gradient before any attack: ranks, conditioning, exact zeros and noise of its layers.

The weight gradient of a linear layer spans the inputs of its B examples (or their tokens). So its rank bounds the
number of separable examples, its condition number the accuracy, and its exact zeros show dropped or inactive units. A
last layer has one input vector per example: the part of its gradient beyond rank B is noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.core.defense_facts import adds_noise
from attacks.core.tolerances import EXACT
from fedsim.core.types import Observation

_SMALL = 16
_MOST_DIRECTIONS = 96
_SPARE_DIRECTIONS = 16
_MATRIX = 2


@dataclass(frozen=True)
class LayerLeak:
    """Diagnostics of one weight gradient as a matrix (outputs, inputs).

    Attributes:
        rank: number of singular values above 1e-5 of the largest; a lower bound if `is_full`.
        condition: ratio of the largest to the smallest of these singular values.
        zero_share: share of exactly zero entries.
        beyond: norm of the singular values after the first B (the batch size), relative to the norm of all.
    """

    name: str
    rank: int
    is_full: bool
    condition: float
    zero_share: float
    beyond: float


@dataclass(frozen=True)
class Leak:
    """Diagnostics of the first and the last shared weight gradient."""

    layers: tuple[LayerLeak, ...]
    is_noisy: bool

    def facts(self) -> dict[str, float]:
        """Return the metrics by name, for the record."""
        named: dict[str, float] = {}
        for layer in self.layers:
            named[f"rank of {layer.name}"] = layer.rank
            named[f"condition number of {layer.name}"] = layer.condition
            named[f"zero share of {layer.name}"] = layer.zero_share
        if self.layers:
            named["noise floor"] = self.layers[-1].beyond
        return named


def leak_of(observation: Observation) -> Leak:
    """Return the diagnostics; a few milliseconds for models of millions of weights."""
    matrices = {name: t.flatten(1) for name, t in observation.update.tensors.items() if t.ndim >= _MATRIX and t.any()}
    matrices = {name: t for name, t in matrices.items() if min(t.shape) > 1}
    names = list(matrices)
    chosen = dict.fromkeys([*names[:1], *names[-1:]])
    layers = tuple(_layer(name, matrices[name], observation.batch_size or 1) for name in chosen)
    seems_noisy = bool(layers) and _is_noisy(layers[-1], matrices[layers[-1].name], observation)
    return Leak(layers, seems_noisy or adds_noise(observation))


def _layer(name: str, matrix: Tensor, batch_size: int) -> LayerLeak:
    singular = _singular_values(matrix, 4 * batch_size + _SPARE_DIRECTIONS)
    rank = int((singular > EXACT * singular[0]).sum())
    return LayerLeak(
        name,
        rank,
        rank == len(singular),
        float(singular[0] / singular[rank - 1]),
        float((matrix == 0).double().mean()),
        float(singular[batch_size:].norm() / singular.norm()),
    )


def _singular_values(matrix: Tensor, wanted: int) -> Tensor:
    """Return all singular values of a small matrix, descending; of a larger matrix the first, from a random sketch."""
    exact = matrix.double()
    if min(matrix.shape) <= _SMALL:
        return torch.linalg.svdvals(exact)
    width = min(*matrix.shape, _MOST_DIRECTIONS, wanted)
    sketch = torch.randn((matrix.shape[1], width), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.svdvals(torch.linalg.qr(exact @ sketch).Q.mT @ exact)


def _is_noisy(last: LayerLeak, matrix: Tensor, observation: Observation) -> bool:
    """Return whether the last layer's gradient, with one input vector per example, exceeds rank B."""
    batch_size = observation.batch_size
    is_head = matrix.shape[0] == observation.spec.classes
    if batch_size is None or not is_head or batch_size >= min(matrix.shape) - 1:
        return False
    return last.beyond > EXACT
