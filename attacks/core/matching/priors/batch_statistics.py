"""batch-statistics: activations have the running statistics of batch normalisation.

Idea: the running statistics of batch normalisation describe the activations of the clients' images.
Equation: sum over layers of |mean - running mean| + |variance - running variance|.
Fails: untrained models, whose running statistics do not describe the data yet; models without running statistics.
Source: Yin et al. 2021, arXiv 2104.07586, equation 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from attacks.core.layers import run
from attacks.core.matching.descent import Regulariser, VictimGroup
from attacks.core.matching.terms import Prior, PriorConfig
from fedsim.core.foreign import pytorch
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.masks import disable_dropout, inject_masks
from fedsim.core.registry import prior
from fedsim.core.types import DropoutSite, Masks, Observation

_Norm = pytorch.BatchNorm


@final
@prior("batch-statistics", summary="activations have the running statistics", related="2104.07586")
class BatchStatistics(Prior[PriorConfig]):
    """Compares activations with the running statistics of the received model."""

    def left_out(self, observation: Observation) -> str | None:
        """Require running statistics."""
        return None if running_statistics(observation.model) else "the model keeps no running statistics"

    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the distance of statistics, under the masks of each row."""
        first = victims.observations[0]
        distance = StatisticsDistance(first, first.sites)
        return lambda inputs, masks, _rows: distance(inputs, masks)


class StatisticsDistance:
    """Distance between the statistics of a row's activations and the running statistics."""

    def __init__(self, observation: Observation, sites: Sequence[DropoutSite]) -> None:
        """Copy the model; the copy runs in training mode, like the client's."""
        self._model = observation.working_copy("train").requires_grad_(False)
        self._wanted = {n: (m.clone(), v.clone()) for n, (m, v) in running_statistics(self._model).items()}
        self._sites = sites

    def __call__(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return sum over layers of |mean - running mean| + |variance - running variance|, shape (R,).

        Args:
            inputs: shape (R, B, *shape).
            masks: one per site, shape (R, *site.shape), or none for forward passes without dropout.
        """
        return torch.stack([self._measure_row(x, tuple(mask[row] for mask in masks)) for row, x in enumerate(inputs)])

    def _measure_row(self, inputs: Tensor, masks: Masks) -> Tensor:
        dropping = inject_masks(self._sites, masks) if masks else disable_dropout()
        with layer_inputs(self._model, self._wanted) as calls, dropping:
            run(self._model, inputs)
        distances: list[Tensor] = []
        for name, seen in calls:
            dimensions = [dimension for dimension in range(seen.ndim) if dimension != 1]
            mean, variance = self._wanted[name]
            distances.append((seen.mean(dimensions) - mean).norm())
            distances.append((seen.var(dimensions, correction=0) - variance).norm())
        return torch.stack(distances).sum()


def running_statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (mean, variance) of every batch normalisation with running statistics, by name."""
    return {
        name: (module.running_mean, module.running_var)
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None and module.running_var is not None
    }
