"""Whether drafted numbers stand: densities of the last steps of two diffusion heads, and draws from what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["exact", "paper"]
Reverse = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # x (N, m) at a level to mean and deviation one level down
_MOST_TRIES = 1000


@dataclass(frozen=True)
class LastStep:
    """The last step of a head, a Gaussian given the noise of all steps before.

    Attributes:
        mean: shape (N, m).
        std: shape (N, m).
        log_spread: sum of ln of the deviations of all steps before, shape (N,).
    """

    mean: Tensor
    std: Tensor
    log_spread: Tensor

    def log_density(self, x: Tensor, soft: float = 1.0) -> Tensor:
        """Return ln of the density of x (N, m), shape (N,), with exponents divided by soft^2."""
        z = (x - self.mean) / self.std
        return (-0.5 * (z / soft).square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def at(self, places: slice | Tensor) -> LastStep:
        """Return those of some rows."""
        return LastStep(self.mean[places], self.std[places], self.log_spread[places])


def joined(steps: Sequence[LastStep]) -> LastStep:
    """Return the last steps of all."""
    mean, std, log_spread = zip(*((one.mean, one.std, one.log_spread) for one in steps), strict=True)
    return LastStep(torch.cat(mean), torch.cat(std), torch.cat(log_spread))


def last_step(reverse: Reverse, noise: Tensor, levels: int, temperature: float = 1.0) -> LastStep:
    """Run all steps but the last.

    Args:
        reverse: the head.
        noise: what it begins with, and what each step but the last adds, shape (T, N, m).
        levels: T.
        temperature: factor of the deviation of every step.
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
    """Return ln of the probability, if below 0, that drafts (N, m) stand, shape (N,)."""
    ratio = target.log_density(x, soft) - draft.log_density(x, soft)
    return ratio if rule == "exact" else ratio + draft.log_spread - target.log_spread


def residual(
    target: LastStep, draft: LastStep, generator: torch.Generator, rule: Rule = "exact"
) -> tuple[Tensor, Tensor]:
    """Draw (N, m) from what the target has more of than the draft, and return how many tries each took, (N,).

    A row that no try within 1,000 kept ends as a draw of the target.
    """
    points, tries = torch.zeros_like(target.mean), torch.zeros(len(target.mean), dtype=torch.long)
    open_ = torch.arange(len(points))
    for _ in range(_MOST_TRIES):
        if not len(open_):
            break
        step = LastStep(target.mean[open_], target.std[open_], target.log_spread[open_])
        other = LastStep(draft.mean[open_], draft.std[open_], draft.log_spread[open_])
        x = step.mean + step.std * torch.randn(step.mean.shape, generator=generator, dtype=step.mean.dtype)
        kept = 1 - (-log_ratio(x, step, other, rule)).exp()
        points[open_], tries[open_] = x, tries[open_] + 1
        open_ = open_[torch.rand(len(open_), generator=generator, dtype=x.dtype) >= kept]
    return points, tries
