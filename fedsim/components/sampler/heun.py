"""heun: samples with the mean slope of both ends of each step, two evaluations per step (Heun, EDM).

Idea: evaluating the slope at the end of an Euler step, and using the mean of both slopes, gives second-order error.
Equation: d = (x - D(x, s)) / s, x' = x + (s' - s) d, d' = (x' - D(x', s')) / s'; then x + (s' - s) (d + d') / 2.
    The last step, to s' = 0, is Euler's. N levels take 2 N - 1 evaluations.
Assumes: a model D(x, s) that removes noise of standard deviation s from x.
Leaks: nothing by its trace, which has always 2 N - 1 evaluations; samples can reproduce training images.
Fails: with fewer than about five levels, where the second slope is no better than the first.
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
    "heun",
    summary="sampler: the mean of two slopes a step, as in EDM",
    tier="baseline",
    paper="2206.00364",
    fidelity="reproduction",
    paper_steps=(
        ("noise levels", "fedsim.components.sampler._solver.levels"),
        ("mean of the slopes at both ends of a step", "fedsim.components.sampler._solver.heun"),
    ),
)
class Heun(LevelSolver[HeunConfig]):
    """Corrects each step by the slope at its end."""

    def move(self, denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
        """Take a Heun step."""
        return heun(denoise, x, level, after)
