"""An observed update beside its truth, and what follows from both: worked out once, for every attack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from fedsim.core import seeding
from fedsim.core.examples import distinct
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.types import Batch, DropoutSite, Reconstruction, Truth, WireEntry
from fedsim.metrics.matching import has_converged, objective_at_truth, unexplained
from fedsim.scenario.world import World


@dataclass(frozen=True)
class Victim:
    """What one attack after the other works on.

    Attributes:
        world: in which the update was made.
        entry: the update on the wire, or the mean of a round's updates, and the weights that it answers.
        truth: the private side of it.
        is_step: whether the truth is all that the update was made of. It is not where the update was worked out of
            several, of other examples and other draws too: then no search that ends proves anything.
    """

    world: World
    entry: WireEntry
    truth: Truth
    is_step: bool = True

    @property
    def model(self) -> nn.Module:
        """The world's one training model, holding the weights that the update answers."""
        return self.world.models.holding(self.entry.received)

    @cached_property
    def examples(self) -> Batch:
        """Every example behind the update, once."""
        return distinct(self.truth.private)

    @cached_property
    def sites(self) -> tuple[DropoutSite, ...]:
        """Where the model drops out, for the batch of the first step."""
        return self._sites(max(1, len(self.truth.batches[0])))

    @cached_property
    def sites_of_one(self) -> tuple[DropoutSite, ...]:
        """The same for a batch of one example: what an attacker knows who does not know the batch size."""
        return self._sites(1)

    @cached_property
    def objective_at_truth(self) -> float | None:
        """What an attack that found the truth would reach."""
        sites, loss = self.sites, self.world.stack.loss(self.entry.round)
        with seeding.isolate_randomness(self._seed):
            return objective_at_truth(self.model, self.entry.update, self.truth, loss, sites, self.world.task.answer)

    def has_converged(self, guess: Reconstruction) -> bool | None:
        """Say whether a guess, in the order of the examples, explains what was sent as well as the truth does.

        None also where the update was worked out of several, and where a defense does not say what it does to a
        gradient: it may be no noise, and then who knows the defense finds the truth to explain all of it.
        """
        at_truth = self._unexplained_at_truth
        at_guess = None if at_truth is None else self._unexplained(guess)
        return None if at_truth is None or at_guess is None else has_converged(at_guess, at_truth)

    @cached_property
    def _unexplained_at_truth(self) -> float | None:
        federation, sent = self.world.facts.federation, self.entry.update.tensors
        if not self.is_step or any(
            defense.describe_distortion(federation, sent) is None for defense in self.world.stack.defenses
        ):
            return None
        return self._unexplained()

    def _unexplained(self, guess: Reconstruction | None = None) -> float | None:
        loss, answer = self.world.stack.loss(self.entry.round), self.world.task.answer
        with seeding.isolate_randomness(self._seed):
            return unexplained(self.model, self.entry.update, self.truth, loss, self.sites, answer, guess)

    def _sites(self, examples: int) -> tuple[DropoutSite, ...]:
        spec = self.world.data.dataset.spec
        with seeding.isolate_randomness(self._seed):
            return dropout_sites(self.model, spec.shape, examples, spec.dtype, self.world.models.trial(self.model))

    @property
    def _seed(self) -> int:
        """The seed of what a model draws for itself: no attack's randomness may depend on who asked first."""
        return seeding.derive(self.world.scenario.seed, "foreign to the scorer", self.entry.round, self.entry.client)
