"""World: the objects of a scenario (data, hooks, model, derived facts), all determined by the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.devices import find_device
from fedsim.core.hooks import ServerRound, Task
from fedsim.core.types import Batch, Draws, Tensors
from fedsim.scenario import compatibility, tasks, user_models
from fedsim.scenario.data import Data, build_data
from fedsim.scenario.federation_facts import FederationFacts
from fedsim.scenario.model_source import ModelSource, ScratchModel
from fedsim.scenario.stack import HookSet, build_stack
from fedsim.scenario.tables import Scenario
from fedsim.scenario.validation import Validation, split_validation


@dataclass(frozen=True)
class World:
    """The objects of a scenario. Built by `build`, and read-only.

    Attributes:
        scenario: the checked scenario.
        data: data partition and batches.
        stack: the hooks.
        own_model: builds the model of user code instead of the scenario's; always with the same weights.
    """

    scenario: Scenario
    data: Data
    stack: HookSet
    own_model: Callable[[], nn.Module] | None = None

    @cached_property
    def task(self) -> Task[Any]:
        """The clients' training task."""
        return tasks.task_of(self.scenario, self.data.dataset)

    @cached_property
    def questions(self) -> tuple[Any, ...]:
        """The questions on the training, of class `fedsim.questions.base.Question`."""
        return tuple(choice.make("question") for choice in self.scenario.every_question)

    @cached_property
    def models(self) -> ModelSource:
        """Factory of the clients' model."""
        return ModelSource(self.scenario, self.data, self.stack, self.task, self.own_model)

    def with_data(self, data: Data, seed: int | None = None) -> World:
        """Return a world with other examples of the same form, the same models, and, if given, another seed."""
        if seed is None:
            return self._with_models(data=data)
        return self._with_models(data=data, scenario=self.scenario.model_copy(update={"seed": seed}))

    def again(self, shares: Sequence[Tensor], seed: int, batch_size: int | None = None) -> World:
        """Return a world with the same models, other clients' examples, and another seed of all random draws."""
        federation = self.scenario.federation
        if batch_size is not None:
            federation = federation.model_copy(update={"batch_size": batch_size})
        scenario = self.scenario.model_copy(update={"seed": seed, "federation": federation})
        return self._with_models(scenario=scenario, data=Data(self.data.dataset, shares, federation, seed))

    def _with_models(self, **changes: Any) -> World:
        changed = replace(self, **changes)
        vars(changed).update(task=self.task, models=self.models)  # shared, because a model may be large
        return changed

    @cached_property
    def validation(self) -> Validation:
        """The server's validation examples, and the data set whose test set lacks them.

        Raises:
            ScenarioError: a component needs more examples than the test set has.
        """
        size = max((component.validation for component in self.stack.model_components), default=0)
        return split_validation(self.data.dataset, size, self.scenario.seed)

    @torch.no_grad()
    def with_server_buffers(self, weights: Tensors, round_: int) -> Tensors:
        """Return global weights with the buffers that components set after a round."""
        deciding = [component for component in self.stack.model_components if component.sets_buffers]
        if not deciding:
            return weights
        model = self.models.load_weights(weights).eval()
        for component in deciding:
            component.after_round(model, round_, self.validation.examples)
        state = model.state_dict()
        return {name: state[name].clone() for name in weights}

    @cached_property
    def watches_models(self) -> bool:
        """Whether a question reads the global model before the watched rounds."""
        return any(question.watches_models for question in self.questions)

    @cached_property
    def device(self) -> torch.device:
        """The device of local training and attacks."""
        return find_device(self.scenario.device)

    @cached_property
    def scratch_model(self) -> ScratchModel:
        """The clients' training model on the scenario's device."""
        return self.models.scratch_model(self.device)

    @cached_property
    def facts(self) -> FederationFacts:
        """Facts derived from the scenario without a run."""
        return FederationFacts(self.scenario, self.data, self.stack)

    def server_round(self, round_: int, received: Tensors | None = None) -> ServerRound:
        """Return a round's context for the aggregation rule; `received` are the weights that clients started from."""
        generator = seeding.generator(self.scenario.seed, "server", round_)
        expected, layout = self.facts.expected_participants, self.models.layout
        return ServerRound(round_, generator, expected, layout.size, received or {}, layout)

    def check(self) -> None:
        """Check before the first round that task, model, components, defenses and the aggregation rule fit.

        Raises:
            ScenarioError: a check failed; the message gives the reason.
        """
        tasks.check_task(self.scenario, self.data.dataset, self.task)
        _ = self.validation
        tasks.check_scoring(self.scenario, self.data.dataset, self.task)
        compatibility.check_objectives(self.stack)
        compatibility.check_modality(self.scenario, self.task, self.stack)
        compatibility.check_labels(self.scenario, self.task, self.stack)
        tasks.check_model(self.scenario, self.task, self.models.load_weights(self.models.first_weights))
        if not self.stack.objectives:
            tasks.check_outputs(
                self.scenario, self.task, self.data.dataset, self.models.load_weights(self.models.first_weights)
            )
        compatibility.check_hooks(self.stack, self.facts, self.models)


def build(scenario: Scenario) -> World:
    """Build the world of an arm.

    Raises:
        FedsimError: the data set is missing or malformed, the partition is impossible, or a client would own fewer
            examples than a batch.
    """
    data = build_data(scenario)
    task = tasks.task_of(scenario, data.dataset)
    world = World(scenario, data, build_stack(scenario, task.loss))
    vars(world)["task"] = task  # reused
    if ":" in scenario.model.name:
        _check_own_model(world)
    return world


def _check_own_model(world: World) -> None:
    """Try a user's model on a local step's batch, with at most two examples."""
    scenario, dataset = world.scenario, world.data.dataset
    example = min(2, scenario.federation.batch_size)
    batch, task = next(dataset.train.split(example)), world.task
    draws = task.named_draws(batch, torch.Generator().manual_seed(0))
    user_models.check_model(
        lambda: scenario.model.make("model", dataset.spec),
        batch.inputs,
        lambda model, inputs: task.answer(model, replace(batch, inputs=inputs), draws)[0],
        None if world.stack.objectives else task.output_shape(batch.labels, dataset.spec),
        None if world.stack.objectives else partial(_loss, world, batch, draws),
        owner=f"model '{scenario.model.name}'",
    )


def _loss(world: World, batch: Batch, draws: Draws, outputs: Tensor) -> Tensor:
    return world.stack.criterion(*world.task.answer(lambda *_, **__: outputs, batch, draws))
