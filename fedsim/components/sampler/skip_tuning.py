"""skip-tuning: scales down a U-Net's skip connections during sampling (Skip-Tuning).

`above` and `below` keep rho at 1 outside of a window of levels; `over_levels = "fading"` raises it to 1 in even steps
of the solver. The model is unchanged after each evaluation. `scaled_skips(model, factor)` tunes skips outside of a
sampler. `guidance` evaluates the model twice, with the class and without.

Idea: few steps must each denoise more, but skip connections pass noise on nearly unchanged. No training.
Equation: cat(u_i, rho_i d_i) for cat(u_i, d_i), rho_i = bottom + i / k (top - bottom), i = 0 .. k from the skip that
    the decoder uses first, at the lowest resolution. Otherwise Heun or Euler.
Assumes: a denoiser that joins by `fedsim.components.core.skips.Skip`; others are refused.
Leaks: as the solver; the best rho for a client's model depends on its data.
Fails: rho is tuned by hand, and too small values blur; the pixel error increases with any rho other than 1.
Source: Ma et al. 2024, arXiv 2402.15170, section 3; the default rho is its constant for 10 steps.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.skips import scaled_skips, skips_of
from fedsim.components.sampler._solver import Denoise, Drawing, LevelSolver, SolverConfig, euler, heun
from fedsim.core.errors import FedsimError
from fedsim.core.registry import component


class SkipTuningConfig(SolverConfig):
    """Settings of Skip-Tuning."""

    bottom: float = Field(default=0.78, ge=0, description="rho of the skip at the lowest resolution")
    top: float = Field(default=0.78, ge=0, description="rho of the skip at the highest resolution; the same: constant")
    above: float = Field(default=0.0, ge=0, description="rho is 1 at lower noise levels")
    below: float | None = Field(default=None, ge=0, description="rho is 1 from this level on; absent: at none")
    level_schedule: Literal["constant", "fading"] = Field(
        default="constant",
        description="fading: rho is weakened by the share of the way from the last level to the first",
    )
    solver: Literal["heun", "euler"] = "heun"


@final
@component(
    "skip-tuning",
    summary="sampler: weaker skips of a U-Net, for few steps",
    tier="research",
    paper="2402.15170",
    fidelity="reproduction",
    paper_steps=(
        ("ramp of factors on the skips", "SkipTuning.factor"),
        ("a factor of 1 equals the plain solver", "SkipTuning.denoise"),
        ("window over noise levels", "SkipTuning.factor"),
        ("ramp over noise levels", "SkipTuning.factor"),
    ),
)
class SkipTuning(LevelSolver[SkipTuningConfig]):
    """Scales the skip features in each evaluation of a solver."""

    def check(self, model: nn.Module) -> None:
        """Raise unless the model is a denoiser with skip connections.

        Raises:
            FedsimError: the model is not a denoiser, or has no skip connections.
        """
        super().check(model)
        if not skips_of(model):
            raise FedsimError(
                f"sampler 'skip-tuning' weakens the skips of a U-Net, and the model {type(model).__name__} has none "
                f"that it finds. Choose sampler '{self.config.solver}', or a U-Net such as 'edm-unet', which joins by "
                "fedsim.components.core.skips.Skip."
            )

    def move(self, denoise: Denoise, x: Tensor, level: Tensor, after: Tensor) -> tuple[Tensor, int]:
        """Take a step of the solver."""
        return (heun if self.config.solver == "heun" else euler)(denoise, x, level, after)

    def denoise(self, model: nn.Module, state: Drawing) -> Denoise:
        """Return the model with scaled skip connections."""
        plain = super().denoise(model, state)

        def weakened(x: Tensor, level: Tensor) -> Tensor:
            with scaled_skips(model, lambda number, count: self.factor(number, count, level)):
                return plain(x, level)

        return weakened

    def factor(self, number: int, count: int, level: Tensor) -> Tensor:
        """Return rho of a skip at the noise level of each row, shape (B,).

        Args:
            number: index from 0, in the order in which the decoder uses skips.
            count: number of skips.
            level: noise levels, shape (B,).
        """
        config = self.config
        rho = torch.full_like(level, config.bottom + number / max(1, count - 1) * (config.top - config.bottom))
        if config.level_schedule == "fading":
            rho = 1 + self._height(level) * (rho - 1)
        is_inside = level >= config.above
        if config.below is not None:
            is_inside = is_inside & (level < config.below)
        return torch.where(is_inside, rho, 1.0)

    def _height(self, level: Tensor) -> Tensor:
        """Return the position of levels (B,) on the solver's curve, 0 at the last level and 1 at the first."""
        config = self.config
        low, high, height_now = (value ** (1 / config.curve) for value in (config.min_level, config.max_level, level))
        return ((height_now - low) / (high - low)).clamp(0, 1)
