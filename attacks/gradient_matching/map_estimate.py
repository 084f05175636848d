"""The Bayes-optimal attack on known noise: the image of largest posterior probability (MAP).

    min over x of -log p(g* | x) - log p(x)
    Gaussian noise: -log p(g* | x) = |g(x) - g*|^2 / (2 s^2);  Laplace: sqrt(2) |g(x) - g*|_1 / s

Paper: Balunovic et al. 2022, arXiv 2111.04706, section 4: an attack is optimal if its distance is the likelihood of
the defense's noise. Relative noise has a scale s of its own in each tensor, found from what arrived: noise s rms(g_l)
leaves rms(g*_l)^2 = (1 + s^2) rms(g_l)^2. A gradient that is known to be clipped is clipped here too. Both terms are
divided by the number of entries; the prior is the total variation.

Noise that hits only some entries, nobody knows which, leaves the others exact: the absolute distance then stands for
the likelihood, whose spike at 0 cannot be descended, and while most entries are exact the noise hardly moves it.

Threat model: honest-but-curious server, one gradient, granted the description of the defenses. Dropout masks of known
rates are optimised along; with unknown rates dropout is ignored. Fails where the prior says little and the noise
drowns the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.defense_facts import Noise, bound_of, noise_of, searched_sites
from attacks.core.tolerances import TINY
from attacks.core.unknown_masks import unknown_masks
from attacks.gradient_matching._comparison import ExplicitGradients, Gradients
from attacks.gradient_matching._engine import Search
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.registry import attack
from fedsim.core.types import Knowledge, Observation


class MapConfig(MatchingConfig):
    """Settings of the search for the most probable image."""

    total_variation: float = Field(
        default=1e-2, ge=0, description="weight of the prior, in units of the likelihood of one entry"
    )
    mask_weight: float = Field(default=1e-4, ge=0, description="weight of the prior of unknown dropout masks")


@final
@attack("map", summary="most probable image under the law of known noise (MAP)", paper="2111.04706")
class Map(MatchingAttack[MapConfig]):
    """The likelihood of the noise as distance."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"defenses"})
    training_mode: ClassVar[bool] = False

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates without known noise, several steps, and changes of weights."""
        if noise_of(observation) is None:
            return "no defense says the law and the scale of its noise"
        if observation.update.kind != "gradient":
            return "the update is a change of weights, but the scale of the noise is that of a gradient"
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
    """-log p(g* | g) an entry, up to a constant, shape (R,).

    Attributes:
        is_absolute: whether it sums absolute differences, for which gradients must be built.
    """

    def __init__(self, noise: Noise, bound: float | None, sizes: Tensor) -> None:
        """Take the law, the norm to which gradients were clipped, and the entries of every tensor."""
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
        """Return by what the client multiplied gradients like those of the rows, shape (R,)."""
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
