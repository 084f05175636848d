"""Base of attacks on several local steps: batch sizes, dropout sites and mask unknowns.

A client that runs K steps of SGD sends D = theta_0 - theta_K, a sum of K gradients at K different weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from attacks.core.matching.attack import MaskSearchConfig, MatchingAttack
from attacks.core.matching.descent import ScheduleName
from attacks.core.matching.unknowns import Unknowns
from attacks.core.outlooks import outlook_of
from attacks.core.preconditions import gradient_steps_only
from fedsim.core.hooks import CostEstimate
from fedsim.core.types import DropoutSite, Knowledge, Observation, change_default


class MultiStepConfig(MaskSearchConfig):
    """Settings of attacks on several local steps."""

    max_iterations: int = change_default(MaskSearchConfig, max_iterations=1000)
    schedule: ScheduleName = change_default(MaskSearchConfig, schedule="steps")
    masks: Literal["optimised", "expectation"] = Field(
        default="optimised",
        description="optimised: unknown dropout masks are searched if their rates are known; expectation: no dropout",
    )


ConfigT = TypeVar("ConfigT", bound=MultiStepConfig)


class MultiStepAttack(MatchingAttack[ConfigT]):
    """A matching attack with one dummy input per distinct example of a client. It attacks one victim at a time."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"batch-size"})

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse updates that are not a sum of gradients, and mask shapes that are not divisible by the batch size."""
        strange = [site.name for site in observation.sites if site.shape[0] % (observation.batch_size or 1)]
        if strange:
            return f"the first dimension of the dropout mask of '{strange[0]}' is not the examples"
        return gradient_steps_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Count the gradients of all local steps of all restarts, which are computed one after the other."""
        chance, because = self.estimate_success(observation)
        gradients = observation.local_steps * self.config.restarts * self.count_gradients(observation)
        return outlook_of(observation, gradients, chance, because)

    def max_victims(self, observation: Observation) -> int:
        """Return 1: rows are computed one after the other, so several victims at once would not be faster."""
        return 1

    def masks(self, observation: Observation, sites: tuple[DropoutSite, ...]) -> Unknowns:
        """Return the unknowns of forward passes at `sites`: dropout masks, or none if dropout is ignored."""
        is_searched = self.config.masks == "optimised" and "dropout-rates" in observation.threat.knows
        return self.config.searched_masks(sites if is_searched else ())


def batch_sizes(observation: Observation) -> tuple[int, ...]:
    """Return the number of examples in each of the K local steps."""
    return observation.batch_sizes or (observation.batch_size or 1,) * observation.local_steps


def sites_for(observation: Observation, examples: int) -> tuple[DropoutSite, ...]:
    """Return the dropout sites of a forward pass on this number of examples."""
    size = observation.batch_size or 1
    return tuple(replace(site, shape=(site.shape[0] // size * examples, *site.shape[1:])) for site in observation.sites)
