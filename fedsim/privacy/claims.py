"""Trade-off functions of noisy steps: smallest mass of wrong guesses about a unit for a mass of right guesses.

    g(x) = max over eps of e^-eps (x - delta(eps)),    delta(-eps) = 1 - e^-eps (1 - delta(eps))

with delta(eps) the smallest valid delta at eps (Dong, Roth, Su 2022, arXiv 1905.02383, section 2). Without subsampling
g is Phi(Phi^-1(x) - mu). With subsampling, delta(eps) is an upper bound from the composed privacy loss distribution, or
from Renyi divergences if that distribution has no grid, and g is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.accounting import ORDERS, Spent, epsilon, gaussian_delta, mu_of, rdp
from fedsim.privacy.privacy_loss import delta_bounds

_EPSILONS = np.linspace(0.0, 30.0, 601)  # grid, mirrored below 0: a coarser grid gives a smaller, valid g
_EVERY = 4  # order of Renyi divergences: fewer bound delta a little worse and take a quarter of the time


@dataclass(frozen=True)
class Claim:
    """Noisy steps as stated by the mechanism's author.

    Attributes:
        spent: the steps.
        delta: at which epsilon is stated.
    """

    spent: tuple[Spent, ...]
    delta: float

    def with_noise(self, factor: float) -> Claim:
        """Return the claim of the same steps with so many times the noise."""
        parts = (replace(part, noise_multiplier=factor * part.noise_multiplier) for part in self.spent)
        return replace(self, spent=tuple(parts))

    @property
    def samples(self) -> bool:
        """Whether units are left out of steps by chance."""
        return any(part.sampling_rate < 1 for part in self.spent)

    @cached_property
    def mu(self) -> float:
        """Sensitivity over standard deviation of all steps together, as if units took part in each."""
        return mu_of(self.spent)

    @cached_property
    def epsilon(self) -> float:
        """Epsilon at the stated delta."""
        return epsilon(self.spent, self.delta).value

    @cached_property
    def accuracy(self) -> float:
        """Largest chance that a guess about a fair coin is right: (1 + delta(0)) / 2."""
        return (1.0 + (float(self._deltas[0]) if self.samples else gaussian_delta(self.mu, 0.0))) / 2

    def least_wrong(self, right: float) -> float:
        """Return g: the smallest mass of wrong guesses for right guesses of mass `right`, both in [0, 1]."""
        if self.samples:
            return max(0.0, float((self._factors * (right - self._offsets)).max()))
        from scipy.special import ndtr, ndtri  # noqa: PLC0415 - most runs need not wait for SciPy

        return float(ndtr(ndtri(right) - self.mu))

    @cached_property
    def _deltas(self) -> NDArray[np.float64]:
        """Upper bounds of delta at `_EPSILONS`, from the privacy loss or from Renyi orders."""
        if all(part.sampling_rate < 1 for part in self.spent):
            of_loss = delta_bounds(self.spent, _EPSILONS)
            if of_loss is not None:
                return of_loss
        bounds = [np.ones_like(_EPSILONS)]
        for order in ORDERS[::_EVERY]:
            divergence = rdp(self.spent, order)
            if math.isfinite(divergence):
                exponent = (order - 1.0) * (divergence + math.log1p(-1.0 / order) - _EPSILONS) - math.log(order)
                bounds.append(np.exp(np.minimum(exponent, 0.0)))
        return np.min(bounds, axis=0)

    @cached_property
    def _factors(self) -> NDArray[np.float64]:
        return np.exp(np.concatenate((-_EPSILONS, _EPSILONS)))

    @cached_property
    def _offsets(self) -> NDArray[np.float64]:
        return np.concatenate((self._deltas, 1.0 - np.exp(-_EPSILONS) * (1.0 - self._deltas)))
