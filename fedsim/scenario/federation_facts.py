"""Public facts of a scenario's federation, and its private mechanisms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedsim.core.hooks import PublicFederation
from fedsim.core.types import Mechanism
from fedsim.scenario.data import Data
from fedsim.scenario.stack import HookSet
from fedsim.scenario.tables import Scenario


@dataclass(frozen=True)
class FederationFacts:
    """Facts derived from a scenario without a run."""

    scenario: Scenario
    data: Data
    stack: HookSet

    @cached_property
    def federation(self) -> PublicFederation:
        """Public facts of the federation."""
        settings, sizes = self.scenario.federation, self.data.sizes
        stack, spec = self.stack, self.data.dataset.spec
        return PublicFederation(
            algorithm=settings.algorithm,
            rounds=settings.rounds,
            steps=max(self.data.steps(client) for client in range(len(sizes))),
            batch_size=settings.batch_size,
            examples=min(sizes),
            most_examples=max(sizes),
            shape=spec.shape,
            classes=spec.classes,
            sampling=settings.sampling,
            clients=settings.clients,
            cohort=self.expected_participants,
            cohort_sampling=self.scenario.participation.sampling,
            loss_terms=tuple(type(term).__name__ for term in (*stack.objectives, *stack.loss_terms)),
            batch_readers=(*(type(hook).__name__ for hook in stack.batch_readers()), *stack.whole_batch_components),
            hides_updates=self.scenario.secure_aggregation is not None,
            smallest_sum=self._smallest_sum,
            quantisation=self.scenario.secure_aggregation,
            vocabulary=spec.vocabulary,
            label_shape=tuple(self.data.dataset.train.labels.shape[1:]),
            padding=spec.padding,
            borders=spec.borders,
        )

    @cached_property
    def keeps_state(self) -> bool:
        """Whether a client's update depends on its own earlier rounds."""
        hooks = (*self.stack.augmentations, *self.stack.loss_terms, *self.stack.defenses)
        return self.scenario.federation.keep_optimizer_state or any(hook.keeps_state for hook in hooks)

    @property
    def expected_participants(self) -> float:
        """Expected number of sampled clients per round."""
        scenario = self.scenario
        if scenario.participation.sampling == "fixed":
            return scenario.cohort_size
        return scenario.sampling_rate * scenario.federation.clients

    @property
    def _smallest_sum(self) -> int:
        secure, participation = self.scenario.secure_aggregation, self.scenario.participation
        if secure is None:
            return 1
        if participation.sampling == "poisson" or participation.availability < 1:
            return 2  # the smallest cohort with a sum
        return secure.survivors_needed(self.scenario.cohort_size)

    @cached_property
    def client_mechanisms(self) -> dict[str, Mechanism]:
        """The private mechanism of each client-side defense, per round, by the defense's name."""
        stated = {defense.name: defense.mechanism(self.federation) for defense in self.stack.defenses_as_written}
        return {name: mechanism for name, mechanism in stated.items() if mechanism is not None}

    @cached_property
    def server_mechanism(self) -> Mechanism | None:
        """The private mechanism of the aggregation rule, per round."""
        return self.stack.rule.mechanism(self.federation)
