"""Sequential Monte Carlo over texts: weighted particles, effective sample size, resampling, and evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch


@dataclass(frozen=True)
class Particle:
    """A partial or whole text.

    Attributes:
        tokens: tokens after the prompt.
        log_weight: ln of the weight since the last resampling; -inf for a dead particle.
        is_whole: whether the text has ended.
        log_worth: ln of the critic's value, which the weight already includes.
    """

    tokens: tuple[int, ...] = ()
    log_weight: float = 0.0
    is_whole: bool = False
    log_worth: float = 0.0

    @property
    def is_living(self) -> bool:
        """Whether the weight is above 0."""
        return self.log_weight > -math.inf

    @property
    def is_open(self) -> bool:
        """Whether the text is extended further."""
        return self.is_living and not self.is_whole


@dataclass(frozen=True)
class Population:
    """Particles of a row.

    Attributes:
        particles: N particles; dead particles remain with weight 0.
        log_factor: ln of the product of the mean weights at all resamplings.
        sizes: effective sample size after each step.
        failure: why all particles died; empty while a particle lives.
        is_full: whether no open particle may grow further.
    """

    particles: tuple[Particle, ...]
    log_factor: float = 0.0
    sizes: tuple[float, ...] = ()
    failure: str = ""
    is_full: bool = False

    @property
    def log_weights(self) -> tuple[float, ...]:
        """Ln of all particle weights since the last resampling."""
        return tuple(particle.log_weight for particle in self.particles)

    @property
    def is_over(self) -> bool:
        """Whether no particle is open."""
        return not any(particle.is_open for particle in self.particles)

    @property
    def log_evidence(self) -> float:
        """Ln of the estimated evidence: the factor times the mean weight; open particles count too."""
        return self.log_factor + log_mean(self.log_weights)

    def drop_unfinished(self) -> Self:
        """Return the population with weight 0 for particles that have not ended."""
        cut = (
            particle if particle.is_whole else replace(particle, log_weight=-math.inf) for particle in self.particles
        )
        return replace(self, particles=tuple(cut))

    def with_sample_size(self) -> Self:
        """Return the population with its current effective sample size appended."""
        return replace(self, sizes=(*self.sizes, effective_size(self.log_weights)))

    def resample(self, generator: torch.Generator) -> Self:
        """Resample as many particles by weight, each with weight 1; the mean weight is multiplied into the factor."""
        chosen = chosen_by_weight(self.log_weights, len(self.particles), generator)
        particles = tuple(replace(self.particles[place], log_weight=0.0) for place in chosen)
        return replace(self, particles=particles, log_factor=self.log_evidence)


def effective_size(log_weights: Sequence[float]) -> float:
    """Return the effective sample size (sum w)^2 / sum w^2; 0 if all weights are 0."""
    top = max(log_weights)
    if top == -math.inf:
        return 0.0
    weights = [math.exp(log_weight - top) for log_weight in log_weights]
    return sum(weights) ** 2 / sum(weight * weight for weight in weights)


def log_mean(log_weights: Sequence[float]) -> float:
    """Return ln of the mean weight."""
    top = max(log_weights)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(log_weight - top) for log_weight in log_weights) / len(log_weights))


def chosen_by_weight(log_weights: Sequence[float], count: int, generator: torch.Generator) -> list[int]:
    """Sample `count` indices in proportion to the weights, which must not all be 0."""
    odds = torch.tensor(log_weights, dtype=torch.double).softmax(0)
    return odds.multinomial(count, replacement=True, generator=generator).tolist()
