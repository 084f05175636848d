"""Acceptance test of drafted patches: densities of two diffusion heads' last steps, and sampling from the residual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["exact", "paper"]
Reverse = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # x (N, m), level -> mean, std a level lower
_MOST_TRIES = 1000


@dataclass(frozen=True)
class LastStep:
    """Last step of a diffusion head: a Gaussian given the noise of all earlier steps.

    Attributes:
        mean: shape (N, m).
        std: shape (N, m).
        log_spread: sum of ln of the standard deviations of all earlier steps, shape (N,).
    """

    mean: Tensor
    std: Tensor
    log_spread: Tensor

    def log_density(self, x: Tensor, soft: float = 1.0) -> Tensor:
        """Return the log density of x (N, m), shape (N,), with exponents divided by soft^2."""
        z = (x - self.mean) / self.std
        return (-0.5 * (z / soft).square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def select(self, places: slice | Tensor) -> LastStep:
        """Return the last steps of some rows."""
        return LastStep(self.mean[places], self.std[places], self.log_spread[places])


def concat_steps(steps: Sequence[LastStep]) -> LastStep:
    """Concatenate last steps."""
    mean, std, log_spread = zip(*((step.mean, step.std, step.log_spread) for step in steps), strict=True)
    return LastStep(torch.cat(mean), torch.cat(std), torch.cat(log_spread))


def last_step(reverse: Reverse, noise: Tensor, levels: int, temperature: float = 1.0) -> LastStep:
    """Run all denoising steps but the last.

    Args:
        reverse: the head.
        noise: initial noise, then the noise of each step but the last, shape (T, N, m).
        levels: T.
        temperature: factor of the standard deviation of each step.
    """
    x, spread = noise[0], noise.new_zeros(noise.shape[1])
    for level in range(levels, 1, -1):
        mean, std = reverse(x, level)
        std = temperature * std
        x = mean + std * noise[levels - level + 1]
        spread = spread + std.log().sum(-1)
    mean, std = reverse(x, 1)
    return LastStep(mean, temperature * std, spread)


def log_ratio(x: Tensor, target: LastStep, draft: LastStep, rule: Rule, soft: float = 1.0) -> Tensor:
    """Return the log density ratio of drafts (N, m), shape (N,); they are accepted with probability min(1, ratio)."""
    ratio = target.log_density(x, soft) - draft.log_density(x, soft)
    return ratio if rule == "exact" else ratio + draft.log_spread - target.log_spread


def residual(
    target: LastStep, draft: LastStep, generator: torch.Generator, rule: Rule = "exact"
) -> tuple[Tensor, Tensor]:
    """Sample (N, m) from the residual (target minus draft)+ by rejection; also return the number of tries, (N,).

    A row without acceptance in 1,000 tries gets a sample of the target.
    """
    points, tries = torch.zeros_like(target.mean), torch.zeros(len(target.mean), dtype=torch.long)
    open_ = torch.arange(len(points))
    for _ in range(_MOST_TRIES):
        if not len(open_):
            break
        step = LastStep(target.mean[open_], target.std[open_], target.log_spread[open_])
        reference = LastStep(draft.mean[open_], draft.std[open_], draft.log_spread[open_])
        x = step.mean + step.std * torch.randn(step.mean.shape, generator=generator, dtype=step.mean.dtype)
        kept = 1 - (-log_ratio(x, step, reference, rule)).exp()
        points[open_], tries[open_] = x, tries[open_] + 1
        open_ = open_[torch.rand(len(open_), generator=generator, dtype=x.dtype) >= kept]
    return points, tries
