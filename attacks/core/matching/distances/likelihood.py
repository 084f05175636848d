"""likelihood: the negative log likelihood of noise of a known distribution.

Idea: against noise of a known distribution, the optimal distance is the negative log likelihood of the noise.
Equation: -log p(g* | g) per entry, up to a constant: |g - g*|^2 / (2 s^2) for Gaussian noise, sqrt(2) |g - g*|_1 / s
    for Laplace noise. Relative noise has an s for each tensor, from rms(g*_l)^2 = (1 + s^2) rms(g_l)^2. Noise on
    unknown entries has a spike at 0: |g - g*|_1 replaces its likelihood. A gradient is clipped as the client's was.
Fails: unknown distribution or scale of the noise; weight deltas, whose noise is scaled.
Source: Balunovic, Dimitrov, Staab, Vechev 2022, arXiv 2111.04706, section 4.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from attacks.core.defense_facts import bound_of, noise_of
from attacks.core.matching.comparison import Gradients
from attacks.core.matching.descent import VictimGroup
from attacks.core.matching.terms import Distance, DistanceConfig
from attacks.core.tolerances import TINY
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import distance
from fedsim.core.types import Observation
from fedsim.core.types.effects import AddedNoise


@final
@distance("likelihood", summary="negative log likelihood of noise of a known law", related="2111.04706")
class Likelihood(Distance[DistanceConfig]):
    """Measures the likelihood of the noise that a row implies."""

    def prepare(self, victims: VictimGroup) -> None:
        """Read the noise that a defense declares.

        Raises:
            NotApplicable: no defense declares it, or the noise is not on a gradient.
        """
        first = victims.observations[0]
        noise = known_noise(first)
        if isinstance(noise, str):
            raise NotApplicable(noise)
        names = [name for name, _ in first.model.named_parameters() if name in first.update.tensors]
        self.take(noise, bound_of(first), torch.tensor([first.update.tensors[name].numel() for name in names]))

    def take(self, noise: AddedNoise, bound: float | None, sizes: Tensor) -> None:
        """Store the noise, the clipping norm of the gradients, and the number of entries of every tensor."""
        self._noise, self._bound, self._sizes = noise, bound, sizes
        self.reads_entries = noise.law == "laplace" or noise.share < 1.0

    def measure(self, gradients: Any) -> Tensor:
        """Return -log p(g* | g) per entry, shape (R,)."""
        factors, scales = self._factors(gradients), self._scales(gradients)
        if self.reads_entries:
            misfit = 2**0.5 * gradients.absolute(factors) / scales
        else:
            row_factors = factors[:, None]
            misfit = (
                row_factors.square() * gradients.squared_norms()
                - 2.0 * row_factors * gradients.inner()
                + gradients.observed_squared_norms()
            )
            misfit = misfit / (2.0 * scales.square())
        return misfit.sum(1) / self._sizes.sum()

    def _factors(self, gradients: Gradients) -> Tensor:
        """Return the clipping factor of each row's gradient, shape (R,)."""
        norms = gradients.squared_norms().sum(1).sqrt()
        if self._bound is None:
            return torch.ones_like(norms)
        return (self._bound / norms.clamp_min(TINY)).clamp_max(1.0)

    def _scales(self, gradients: Gradients) -> Tensor:
        """Return the standard deviation of the noise in every tensor, shape (R, T)."""
        scale, observed = self._noise.scale, gradients.observed_squared_norms()
        if not self._noise.is_relative:
            return torch.full_like(observed, scale)
        clean = observed / self._sizes.to(observed.device) / (1.0 + scale**2)
        return (scale * clean.sqrt()).clamp_min(TINY)


def known_noise(observation: Observation) -> AddedNoise | str:
    """Return the noise on an update if its likelihood is known, else the reason as a clause."""
    noise = noise_of(observation)
    if noise is None:
        return "no defense says the law and the scale of its noise"
    if observation.update.kind != "gradient":
        return "the update is a change of weights, but the scale of the noise is known for a gradient only"
    return noise
