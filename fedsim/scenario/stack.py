"""Stack of a scenario's hooks: components, defenses, optimizers and the aggregation rule."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from fedsim.core.hooks import (
    PLACES,
    Aggregator,
    Augmentation,
    Component,
    Defense,
    LossTerm,
    ModelComponent,
    Objective,
    Optimizer,
)
from fedsim.core.types import Loss, MethodDescription, Tensors
from fedsim.scenario.choices import Aggregation
from fedsim.scenario.tables import Scenario


@dataclass(frozen=True)
class HookSet:
    """The hooks of a scenario.

    Attributes:
        components: components in the order of the file.
        defenses_as_written: defenses in the order of the file.
        optimizer: optimizer of the clients.
        server_optimizer: optimizer that applies the aggregate.
        aggregation: choice of the aggregation rule.
        criterion: default training objective, ``criterion(outputs, targets) -> scalar``.
    """

    components: tuple[Component[Any], ...]
    defenses_as_written: tuple[Defense[Any], ...]
    optimizer: Optimizer[Any]
    server_optimizer: Optimizer[Any]
    aggregation: Aggregation
    criterion: Loss

    @cached_property
    def defenses(self) -> tuple[Defense[Any], ...]:
        """The defenses in the order of application."""
        return tuple(sorted(self.defenses_as_written, key=lambda defense: PLACES.index(defense.place)))

    @cached_property
    def model_components(self) -> tuple[ModelComponent[Any], ...]:
        """Components that change the model."""
        return tuple(c for c in self.components if isinstance(c, ModelComponent))

    @cached_property
    def augmentations(self) -> tuple[Augmentation[Any], ...]:
        """Components that change batches."""
        return tuple(c for c in self.components if isinstance(c, Augmentation))

    @cached_property
    def objectives(self) -> tuple[Objective[Any], ...]:
        """Components that replace the task's loss; `World.check` allows at most one."""
        return tuple(c for c in self.components if isinstance(c, Objective))

    @cached_property
    def loss_terms(self) -> tuple[LossTerm[Any], ...]:
        """Components that add a loss term."""
        return tuple(c for c in self.components if isinstance(c, LossTerm))

    @property
    def component_views(self) -> tuple[MethodDescription, ...]:
        """Public knowledge of the components, for attackers with grant `components`."""
        views = (component.public_description() for component in self.components)
        return tuple(view for view in views if view is not None)

    @property
    def whole_batch_components(self) -> tuple[str, ...]:
        """Parts of the model that depend on the whole batch, by name."""
        readers = (component.batch_reader for component in self.model_components)
        return tuple(reader for reader in readers if reader is not None)

    def batch_readers(self) -> Iterator[Augmentation[Any] | Defense[Any]]:
        """Yield the hooks that depend on the whole batch."""
        yield from self.augmentations
        for defense in self.defenses:
            reads = defense.needs_step or defense.overrides("on_batch") or defense.overrides("loss")
            if reads and not defense.overrides("on_examples"):
                yield defense

    def loss(self, round_: int) -> Loss:
        """Return the training objective of a round, ``loss(outputs, targets) -> scalar``, without added terms."""
        for objective in self.objectives:
            return partial(objective.objective, round_=round_)
        return self.criterion

    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Apply a client's optimizer step, scaled by the components' factors. Changes `parameters` in place."""
        factors: dict[str, Tensor] = {}
        for component in self.model_components:
            factors |= component.step_factors(parameters)
        self.optimizer.scaled_step(factors, parameters, gradient, state)

    @cached_property
    def rule(self) -> Aggregator[Any]:
        """The aggregation rule for queries; it never aggregates."""
        return self.aggregation.make("aggregator")

    def new_aggregator(self) -> Aggregator[Any]:
        """Return a new aggregation rule for a run; it may keep state between rounds."""
        return copy.deepcopy(self.rule)


def build_stack(scenario: Scenario, criterion: Loss) -> HookSet:
    """Build the hooks of a scenario; `criterion` is the loss of its task."""
    return HookSet(
        components=tuple(choice.make("component") for choice in scenario.components),
        defenses_as_written=tuple(choice.make("defense") for choice in scenario.defenses),
        optimizer=scenario.federation.optimizer.make("component"),
        server_optimizer=scenario.aggregation.optimizer.make("component"),
        aggregation=scenario.aggregation,
        criterion=criterion,
    )
