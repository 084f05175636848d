"""A victim: an observed update with its ground truth, and quantities computed once for all attacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

from fedsim.core import seeding
from fedsim.core.examples import unique_examples
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.types import Batch, DropoutSite, Reconstruction, Truth, WireEntry
from fedsim.metrics.matching import has_converged, objective_at_truth, update_distance
from fedsim.scenario.world import World


@dataclass(frozen=True)
class Victim:
    """An attacked update with its ground truth.

    Attributes:
        world: the scenario's built objects.
        entry: the observed update, or the mean of a round's updates, with the received weights.
        truth: ground truth of the update.
        is_step: whether the ground truth explains the whole update. False for an unlearning estimate from several
            updates, which also depends on other examples and draws: a converged search then proves nothing.
    """

    world: World
    entry: WireEntry
    truth: Truth
    is_step: bool = True

    @property
    def model(self) -> nn.Module:
        """The world's only training model, loaded with the received weights."""
        return self.world.models.load_weights(self.entry.received_weights)

    @cached_property
    def examples(self) -> Batch:
        """All distinct examples behind the update."""
        return unique_examples(self.truth.original_batches)

    @cached_property
    def sites(self) -> tuple[DropoutSite, ...]:
        """The dropout sites for the batch of the first step."""
        return self._sites(max(1, len(self.truth.batches[0])))

    @cached_property
    def sites_of_one(self) -> tuple[DropoutSite, ...]:
        """The dropout sites for a batch of size 1: the view of an attacker without the batch size."""
        return self._sites(1)

    @cached_property
    def objective_at_truth(self) -> float | None:
        """The attack's objective at the ground truth."""
        sites, loss = self.sites, self.world.stack.loss(self.entry.round)
        with seeding.isolate_randomness(self._seed):
            return objective_at_truth(self.model, self.entry.update, self.truth, loss, sites, self.world.task.answer)

    def has_converged(self, guess: Reconstruction) -> bool | None:
        """Return whether a guess, in the order of the examples, explains the update as well as the ground truth does.

        None if the update is an unlearning estimate of several updates, or if a defense does not describe its
        distortion: it may be deterministic, so that with knowledge of the defense the ground truth explains the whole
        update.
        """
        at_truth = self._unexplained_at_truth
        at_guess = None if at_truth is None else self._update_distance(guess)
        return None if at_truth is None or at_guess is None else has_converged(at_guess, at_truth)

    @cached_property
    def _unexplained_at_truth(self) -> float | None:
        federation, sent = self.world.facts.federation, self.entry.update.tensors
        if not self.is_step or any(
            defense.describe_distortion(federation, sent) is None for defense in self.world.stack.defenses
        ):
            return None
        return self._update_distance()

    def _update_distance(self, guess: Reconstruction | None = None) -> float | None:
        loss, answer = self.world.stack.loss(self.entry.round), self.world.task.answer
        with seeding.isolate_randomness(self._seed):
            return update_distance(self.model, self.entry.update, self.truth, loss, self.sites, answer, guess)

    def _sites(self, examples: int) -> tuple[DropoutSite, ...]:
        spec = self.world.data.dataset.spec
        with seeding.isolate_randomness(self._seed):
            return dropout_sites(self.model, spec.shape, examples, spec.dtype, self.world.models.trial(self.model))

    @property
    def _seed(self) -> int:
        """Seed of the model's own random draws, independent of the order of attacks."""
        return seeding.derive(self.world.scenario.seed, "foreign to the scorer", self.entry.round, self.entry.client)
