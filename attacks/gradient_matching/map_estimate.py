"""map: search the image of largest posterior probability under a known law of noise (MAP).

Idea: the best attack on noise of a known law takes as its distance the noise's negative log likelihood.
Equation: min over x of -log p(g* | x) + l_tv TV(x), each divided by its number of entries, with -log p = |g - g*|^2 /
    (2 s^2) for Gaussian noise, sqrt(2) |g - g*|_1 / s for Laplace noise. Relative noise has an s for each tensor, from
    rms(g*_l)^2 = (1 + s^2) rms(g_l)^2. Noise on unknown entries has a spike at 0: |g - g*|_1 is taken in its place.
Assumes: honest-but-curious server, one gradient, granted the defenses. A clipped gradient is clipped on the dummy's
    side too.
Recovers: images, labels, and dropout masks of known rates; unknown rates are ignored.
Fails: noise that drowns the gradient; changes of weights, whose noise has another scale; an unknown law or scale.
Source: Balunovic, Dimitrov, Staab, Vechev 2022, arXiv 2111.04706, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import bound_of, noise_of, searched_sites
from attacks.core.matching.attack import MatchingAttack, MatchingConfig
from attacks.core.matching.comparison import ExplicitGradients, Gradients
from attacks.core.matching.descent import Search
from attacks.core.matching.unknown_masks import unknown_masks
from attacks.core.tolerances import TINY
from fedsim.core.hooks import Tables
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation
from fedsim.core.types.effects import AddedNoise


class MapConfig(MatchingConfig):
    """Settings of the search for the most probable image."""

    total_variation: float = Field(
        default=1e-2, ge=0, description="weight of the prior, in units of the likelihood of one entry"
    )
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the prior of unknown dropout masks")


@final
@attack("map", summary="most probable image under the law of known noise (MAP)", paper="2111.04706")
class Map(MatchingAttack[MapConfig]):
    """Takes the likelihood of the noise as the distance."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})
    training_mode: ClassVar[bool] = False
    example: ClassVar[Tables] = {"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates without known noise, several steps, and changes of weights."""
        if noise_of(observation) is None:
            return "no defense says the law and the scale of its noise"
        if observation.update.kind != "gradient":
            return "the update is a change of weights, but the scale of the noise is known for a gradient only"
        return super().not_applicable(observation)

    def plan(self, observations: Sequence[Observation]) -> Search:
        """Return the search with the likelihood of the noise as distance."""
        first = observations[0]
        noise = noise_of(first)
        assert noise is not None
        names = [name for name, _ in first.model.named_parameters() if name in first.update.tensors]
        sizes = torch.tensor([first.update.tensors[name].numel() for name in names])
        likelihood = _Likelihood(noise, bound_of(first), sizes)
        config, sites = self.config, searched_sites(first)
        masks = unknown_masks(
            sites, len(observations), weight=config.mask_weight, rate=config.learning_rate, begin="mean"
        )
        search = Search(masks, self.first(observations), self.smoothness, likelihood)
        return replace(search, is_explicit=likelihood.is_absolute)


class _Likelihood:
    """-log p(g* | g) per entry, up to a constant, shape (R,).

    Attributes:
        is_absolute: whether it sums absolute differences, for which gradients must be built.
    """

    def __init__(self, noise: AddedNoise, bound: float | None, sizes: Tensor) -> None:
        """Take the noise, the norm to which gradients were clipped, and the number of entries of every tensor."""
        self._noise, self._bound, self._sizes = noise, bound, sizes
        self.is_absolute = noise.law == "laplace" or noise.share < 1.0

    def __call__(self, gradients: Gradients) -> Tensor:
        factors, scales = self._factors(gradients), self._scales(gradients)
        if self.is_absolute:
            misfit = 2**0.5 * cast("ExplicitGradients", gradients).absolute(factors) / scales
        else:
            each = factors[:, None]
            misfit = each.square() * gradients.squared() - 2.0 * each * gradients.inner() + gradients.observed()
            misfit = misfit / (2.0 * scales.square())
        return misfit.sum(1) / self._sizes.sum()

    def _factors(self, gradients: Gradients) -> Tensor:
        """Return the factor by which the client would have clipped each row's gradient, shape (R,)."""
        norms = gradients.squared().sum(1).sqrt()
        if self._bound is None:
            return torch.ones_like(norms)
        return (self._bound / norms.clamp_min(TINY)).clamp_max(1.0)

    def _scales(self, gradients: Gradients) -> Tensor:
        """Return the standard deviation of the noise in every tensor, shape (R, T)."""
        scale, observed = self._noise.scale, gradients.observed()
        if not self._noise.is_relative:
            return torch.full_like(observed, scale)
        clean = observed / self._sizes.to(observed.device) / (1.0 + scale**2)
        return (scale * clean.sqrt()).clamp_min(TINY)
