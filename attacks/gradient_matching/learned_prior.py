"""learned-prior: gradient matching with a denoiser of public images as prior (plug and play).

Idea: a gradient under noise or pruning fits many images. A trained denoiser favours natural images.
Equation: min over x of 1 - cos(g(x), g*) + l_tv TV(x) + l / s mean((x - D(x, s))^2) / 2, for falling levels s; D is
    constant in its derivative.
Assumes: honest-but-curious server, a single gradient; a denoiser of `fedsim bench model` that was trained on public
    images.
Recovers: images and labels, where the gradient alone leaves a choice.
Fails: images unlike the public images: its result then looks plausible and is wrong. Dropout, which it ignores.
Source: Romano, Elad, Milanfar 2017, arXiv 1611.02862, equation 2 (RED); Jeon et al. 2021, arXiv 2110.14962 (attacks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.descent import Descent, Regulariser, RestartResult, descend
from fedsim.core.denoisers import LoadedDenoiser, find_denoiser, load_denoiser
from fedsim.core.errors import FedsimError
from fedsim.core.hooks.attacks import Effort
from fedsim.core.registry import attack
from fedsim.core.settings import NameOrFolder
from fedsim.core.types import InputSpec, Knowledge, Masks, Observation

_TRAINABLE = ("digits-unet", "photographs-unet")


class LearnedPriorConfig(MatchingConfig):
    """Settings of the search."""

    denoiser: NameOrFolder = Field(
        default="digits-unet", description="folder of a trained denoiser, or its name in the cache"
    )
    levels: tuple[float, ...] = Field(
        default=(2.0, 1.0, 0.5, 0.25, 0.12), min_length=1, description="s_k, noise levels in units of normalised images"
    )
    prior_weight: float = Field(default=0.1, ge=0, description="weight l of the prior")


@final
@attack(
    "learned-prior", summary="gradient matching with a denoiser of public images", tier="research", related="2110.14962"
)
class LearnedPrior(MatchingAttack[LearnedPriorConfig]):
    """Matches gradients near images that a denoiser leaves unchanged."""

    effort: ClassVar[Effort] = "reference"  # it depends on a user's file, and `auto` must not
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"input-statistics"})
    training_mode: ClassVar[bool] = False

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse images of another shape than the denoiser's, and a missing denoiser."""
        try:
            known = load_denoiser(find_denoiser(self.config.denoiser, _TRAINABLE)).spec.shape
        except FedsimError as error:
            return str(error)
        shape = observation.spec.shape
        if len(shape) != len(known) or shape[0] != known[0]:
            return f"the denoiser '{self.config.denoiser}' reads images {known}, and an example is {shape}"
        return super().not_applicable(observation)

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Descend at each level in turn, starting from the previous results."""
        config, spec = self.config, descent.victims.observations[0].spec
        denoise = _denoiser(load_denoiser(find_denoiser(config.denoiser, _TRAINABLE)), spec)
        iterations = max(1, config.max_iterations // len(config.levels))
        settings, stage, rows = descent.settings._replace(iterations=iterations), descent.search, list[RestartResult]()
        for number, level in enumerate(config.levels):
            stage = replace(stage, prior=_with_prior(descent.search.prior, denoise, level, config.prior_weight / level))
            part = descent.victims.as_part(done=number * iterations, iterations=config.max_iterations)
            rows = descend(replace(descent, search=stage, victims=part, settings=settings))
            stage = replace(stage, first=_yield_in_order(rows))
        return rows


Denoise = Callable[[Tensor, float], Tensor]  # normalised images (N, C, H, W) and a level to images without noise


def _denoiser(denoiser: LoadedDenoiser, spec: InputSpec) -> Denoise:
    """Return the denoiser for images normalised by the observation's statistics, called without classes."""
    model: nn.Module = denoiser.model
    ours, theirs = _statistics(spec), _statistics(denoiser.spec)

    @torch.no_grad()
    def denoise(images: Tensor, level: float) -> Tensor:
        x = (images.float() * ours[1] + ours[0] - theirs[0]) / theirs[1]
        answer = model(x, x.new_full((len(x),), level))
        return ((answer * theirs[1] + theirs[0] - ours[0]) / ours[1]).to(images)

    return denoise


def _statistics(spec: InputSpec) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(statistic).view(-1, 1, 1) for statistic in (spec.mean, spec.std))
    return mean, std


def _with_prior(plain: Regulariser, denoise: Denoise, level: float, weight: float) -> Regulariser:
    """Return a regulariser with the gradient of RED: weight times the residual that the denoiser removes."""

    def prior(inputs: Tensor, masks: Masks, victims: Sequence[int]) -> Tensor:
        images = inputs.flatten(0, 1)
        residual = (images - denoise(images.detach(), level)).view_as(inputs)
        return plain(inputs, masks, victims) + weight * residual.square().flatten(1).mean(1) / 2

    return prior


def _yield_in_order(rows: Sequence[RestartResult]) -> Callable[[int, torch.Generator], Tensor]:
    """Return a function that yields the results of rows in order, the order in which a descent requests its starts."""
    ends = iter([row.inputs.detach().clone() for row in rows])
    return lambda _victim, _generator: next(ends)
