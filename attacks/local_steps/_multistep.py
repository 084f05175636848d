"""What attacks on several local steps share: how many examples there are, their masks, and the update as a gradient.

A client that took K steps of SGD sent D = theta_0 - theta_K, a sum of K gradients at K different weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.core.labels import gradient_weight
from attacks.core.preconditions import gradient_steps_only
from attacks.core.starts import first_inputs
from attacks.core.unknown_masks import unknown_masks
from attacks.core.unknowns import Unknowns
from attacks.gradient_matching._engine import ScheduleName
from attacks.gradient_matching.base import MatchingAttack, MatchingConfig
from fedsim.core.types import DropoutSite, Knowledge, Observation


class MultiStepConfig(MatchingConfig):
    """Settings of attacks on several local steps."""

    iterations: int = Field(default=1000, ge=1, description="most iterations of one trial")
    schedule: ScheduleName = Field(
        default="steps", description="how the step shrinks; steps: tenfold after 3/8, 5/8 and 7/8"
    )
    masks: Literal["optimised", "expectation"] = Field(
        default="optimised",
        description="unknown dropout masks: optimised, or their mean, no dropout; the mean when rates are not known",
    )
    mask_weight: float = Field(default=1e-4, ge=0, description="optimised: weight of the mask prior")


ConfigT = TypeVar("ConfigT", bound=MultiStepConfig)


class MultiStepAttack(MatchingAttack[ConfigT]):
    """An attack whose dummies are all distinct examples of a client, one victim at a time."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"batch-size"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse what is no sum of gradients, and masks that do not begin with the examples."""
        strange = [site.name for site in observation.sites if site.shape[0] % (observation.batch_size or 1)]
        if strange:
            return f"the dropout mask of '{strange[0]}' does not begin with the examples"
        return gradient_steps_only(observation)

    def at_once(self, observation: Observation) -> int:
        """Return 1: rows are computed one after the other, so victims gain nothing from each other."""
        return 1

    @abstractmethod
    def dummies(self, observation: Observation) -> int:
        """Return how many dummies a row has."""

    def first(self, observations: Sequence[Observation]) -> Callable[[int, torch.Generator], Tensor]:
        """Return the function that draws a victim's dummies as the settings say."""
        shape = (self.dummies(observations[0]), *observations[0].spec.shape)
        return lambda _victim, generator: first_inputs(self.config.start, shape, self.config.pattern, generator)

    def masks(self, observation: Observation, sites: tuple[DropoutSite, ...]) -> Unknowns:
        """Return the masks of a forward pass at `sites`: unknowns, or none for the mean of all masks."""
        is_searched = self.config.masks == "optimised" and "dropout-rates" in observation.threat.knows
        config = self.config
        return unknown_masks(sites if is_searched else (), weight=config.mask_weight, rate=config.learning_rate)


def number_of_examples(observation: Observation) -> int:
    """Return N, the distinct examples behind the update."""
    return observation.examples or observation.batch_size or 1


def batch_sizes(observation: Observation) -> tuple[int, ...]:
    """Return the examples of every local step, shape (K,)."""
    return observation.batch_sizes or (observation.batch_size or 1,) * observation.local_steps


def sites_for(observation: Observation, examples: int) -> tuple[DropoutSite, ...]:
    """Return the dropout sites of a forward pass on so many examples."""
    size = observation.batch_size or 1
    return tuple(replace(site, shape=(site.shape[0] // size * examples, *site.shape[1:])) for site in observation.sites)


def as_gradient(observation: Observation) -> Observation:
    """Return the observation with the mean gradient of its local steps as the update, D / (step size times K)."""
    weight = gradient_weight(observation)
    tensors = {name: tensor / weight for name, tensor in observation.update.tensors.items()}
    return replace(observation, update=replace(observation.update, kind="gradient", tensors=tensors))
