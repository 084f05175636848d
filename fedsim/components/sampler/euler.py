"""euler: samples by Euler steps along the slope of each noise level, an evaluation per step (DDIM).

Idea: a sample is the end of a curve whose slope the denoiser predicts at each noise level; the solver follows it in
    steps.
Equation: x' = x + (s' - s) (x - D(x, s)) / s, with s_j = (a + j / (N - 1) (b - a))^7, a = smax^(1/7), b = smin^(1/7), j
    = 0 .. N - 1, then 0.
Assumes: a model D(x, s) that removes noise of standard deviation s from x.
Leaks: nothing by its trace, which has always N evaluations; samples can reproduce training images.
Fails: with few steps: the curve bends, and details become smooth. Heun is more accurate at equal evaluations.
Source: Karras et al. 2022, arXiv 2206.00364, equation 5; Song et al. 2021, arXiv 2010.02502, whose DDIM it equals.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from fedsim.components.sampler._solver import Denoise, LevelSolver, SolverConfig, euler
from fedsim.core.registry import component


class EulerConfig(SolverConfig):
    """Settings of Euler's method."""


@final
@component(
    "euler",
    summary="sampler: a single evaluation per step along the slope",
    tier="baseline",
    paper="2206.00364",
    fidelity="reproduction",
    paper_steps=(
        ("noise levels", "fedsim.components.sampler._solver.levels"),
        ("Euler step along the slope", "fedsim.components.sampler._solver.euler"),
    ),
)
class Euler(LevelSolver[EulerConfig]):
    """Follows the slope at each level."""

    def move(self, denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
        """Take an Euler step."""
        return euler(denoise, x, level, after)
