"""heun: draw by the mean of the slopes at both ends of each step, two evaluations a step (Heun, EDM).

Idea: looking at the slope where a step would end, and going back for the mean, makes the error of second order.
Equation: d = (x - D(x, s)) / s, x' = x + (s' - s) d, d' = (x' - D(x', s')) / s'; then x + (s' - s) (d + d') / 2.
    The last step, to s' = 0, is Euler's. N levels take 2 N - 1 evaluations.
Assumes: a model D(x, s) that takes noise of standard deviation s off x.
Leaks: nothing by its trace, 2 N - 1 evaluations whatever comes out; samples can repeat images of the training set.
Fails: fewer than about five levels, where the second slope is no better than the first.
Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from fedsim.components.sampler._solver import Denoise, LevelSolver, SolverConfig, heun
from fedsim.core.registry import component


class HeunConfig(SolverConfig):
    """Settings of Heun's method."""


@final
@component(
    "heun", summary="sampler: the mean of two slopes a step, as in EDM", paper="2206.00364", fidelity="reproduction"
)
class Heun(LevelSolver[HeunConfig]):
    """Corrects each step by the slope at its end."""

    def move(self, denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
        """Follow the mean of the slopes at both ends."""
        return heun(denoise, x, level, after)
