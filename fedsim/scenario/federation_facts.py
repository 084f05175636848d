"""What is public about a scenario's federation, and what its private mechanisms state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedsim.core.hooks import PublicFederation
from fedsim.core.types import Mechanism
from fedsim.scenario.data import Data
from fedsim.scenario.stack import Stack
from fedsim.scenario.tables import Scenario


@dataclass(frozen=True)
class FederationFacts:
    """What follows from a scenario without running it."""

    scenario: Scenario
    data: Data
    stack: Stack

    @cached_property
    def federation(self) -> PublicFederation:
        """What is public about the federation."""
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
    def remembers(self) -> bool:
        """Whether what a client sends depends on earlier rounds of its own."""
        hooks = (*self.stack.augmentations, *self.stack.loss_terms, *self.stack.defenses)
        return self.scenario.federation.keep_optimizer_state or any(hook.remembers for hook in hooks)

    @property
    def expected_participants(self) -> float:
        """Clients that are asked in a round on average."""
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
            return 2  # the smallest cohort that has a sum
        return secure.survivors_needed(self.scenario.cohort_size)

    @cached_property
    def client_mechanisms(self) -> dict[str, Mechanism]:
        """What private mechanism a client runs in each round, by the name of the defense that is it."""
        stated = {defense.name: defense.mechanism(self.federation) for defense in self.stack.defenses_as_written}
        return {name: mechanism for name, mechanism in stated.items() if mechanism is not None}

    @cached_property
    def server_mechanism(self) -> Mechanism | None:
        """What private mechanism the server's rule runs in each round."""
        return self.stack.rule.mechanism(self.federation)
