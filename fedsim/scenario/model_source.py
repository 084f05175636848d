"""The clients' model, made from the seed: bare, prepared, initialised, and changed by a malicious server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.core.hooks import Attack, Task
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.nets.vectors import Layout
from fedsim.core.types import DropoutSite, Tensors
from fedsim.scenario import memory
from fedsim.scenario.data import Data
from fedsim.scenario.second_derivatives import allow_second_derivatives
from fedsim.scenario.stack import Stack
from fedsim.scenario.tables import Scenario
from fedsim.scenario.tasks import trial
from fedsim.scenario.weights import load_checkpoint


@dataclass(frozen=True)
class Crafted:
    """What a malicious server put into the clients' model.

    Attributes:
        tensors: parameters and buffers that it added or changed, by the names they have in the model.
        added: the names of those that the clients' own model lacks.
    """

    tensors: Tensors
    added: frozenset[str]


@dataclass(frozen=True)
class Workspace:
    """A model to train with, on one device; whoever asks for it overwrites its weights."""

    model: nn.Module
    travelling: tuple[str, ...]

    def holding(self, weights: Tensors) -> nn.Module:
        """Return the model, holding `weights`. The next call overwrites it."""
        if weights.keys() != self._slots.keys():
            self.model.load_state_dict(dict(weights))
        for name, slot in self._slots.items():
            slot.copy_(weights[name])
        return self.model if self.model.training else self.model.train()

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The floating-point buffers that travel with an update."""
        return {name: b for name, b in self.model.named_buffers() if name in self.travelling}

    @cached_property
    def _slots(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())


@dataclass(frozen=True)
class ModelSource:
    """Makes the clients' model, always with the same weights, and keeps one of them to train with.

    Attributes:
        scenario: names the model.
        data: what the model reads.
        stack: its components and defenses change the model.
        task: what the model is for.
        own_model: makes the model of a user's own code, in place of the scenario's; always with the same weights.
    """

    scenario: Scenario
    data: Data
    stack: Stack
    task: Task[Any]
    own_model: Callable[[], nn.Module] | None = None

    def new(self) -> nn.Module:
        """Return the model with its first weights, in training mode: the same in every process.

        Under a malicious server it is the model that this server has changed.

        Raises:
            NotApplicable: the model has no place for a component or a defense.
            ScenarioError: the model has no place for the attack that a malicious server chose.
        """
        may_not_be_copied = ":" in self.scenario.model.name  # code of a user's own may return anything
        return self._make() if may_not_be_copied else copy.deepcopy(self._original)

    def holding(self, weights: Tensors) -> nn.Module:
        """Return this process's one training model, holding `weights`. The next call overwrites it."""
        return self.workspace.holding(weights)

    def on(self, device: torch.device) -> Workspace:
        """Return a model to train with on a device: that of `holding` on the CPU, else one more."""
        if device.type == "cpu":
            return self.workspace
        _ = self.sites  # found on the CPU, before a client asks for them elsewhere
        return Workspace(self.new().to(device), self.layout.buffers)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the model that `holding` returns."""
        return self.workspace.parameters

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The floating-point buffers of that model that travel with an update."""
        return self.workspace.buffers

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of what an update carries."""
        return Layout(self.workspace.model)

    @cached_property
    def first_weights(self) -> Tensors:
        """The state dict that round 1 starts from."""
        return {name: t.detach() for name, t in self._original.state_dict().items()}

    @cached_property
    def sites(self) -> tuple[DropoutSite, ...]:
        """Where the model drops out, for a batch of one example; of two if clients train on more than one."""
        examples = min(2, self.scenario.federation.batch_size)  # batch normalisation refuses to train on one
        spec, model = self.data.dataset.spec, self.new()
        return dropout_sites(model, spec.shape, examples, spec.dtype, self.trial(model))

    def trial(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what runs a model of this kind on any inputs, to see how it behaves."""
        return trial(self.task, self.data.dataset, model)

    @property
    def mixing_module(self) -> str | None:
        """Name and class of a module that mixes the examples of a batch, for people; None when there is none."""
        for name, module in self.workspace.model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                return f"'{name}' ({type(module).__name__})"
        return None

    @cached_property
    def crafted(self) -> Crafted:
        """What the server changed in the model before it handed it out: nothing, if it is honest."""
        if self.scenario.crafting is None:
            return Crafted({}, frozenset())
        honest = self._initialise()
        originals = {id(t): t.detach().clone() for t in honest.state_dict(keep_vars=True).values()}
        sent = self._craft(honest).state_dict(keep_vars=True)
        added = {name for name, tensor in sent.items() if id(tensor) not in originals}
        changed = {name for name in sent.keys() - added if not torch.equal(sent[name], originals[id(sent[name])])}
        tensors = {name: t.detach().clone() for name, t in sent.items() if name in added | changed}
        return Crafted(tensors, frozenset(added))

    @cached_property
    def _original(self) -> nn.Module:
        """The model that others are copies of; nobody runs or changes it."""
        return self._make()

    def _make(self) -> nn.Module:
        model = self._initialise()
        return model if self.scenario.crafting is None else self._craft(model)

    def _craft(self, model: nn.Module) -> nn.Module:
        scenario, spec = self.scenario, self.data.dataset.spec
        choice = scenario.crafting
        assert choice is not None
        attack = cast("Attack[Any]", choice.make("attack"))
        if self.task.refuses_method(attack):
            raise ScenarioError(
                f"attack '{choice.name}' cannot change this model: the examples are {self.task.modality}."
            )
        with seeding.isolate_randomness(seeding.derive(scenario.seed, "craft")):
            try:
                crafted = attack.craft(model, spec, self.data.public, seeding.generator(scenario.seed, "craft", 0))
            except NotApplicable as reason:
                raise ScenarioError(f"attack '{choice.name}' cannot change this model: {reason}.") from reason
        return crafted.train()

    def _initialise(self) -> nn.Module:
        """Return the model of honest clients: with the first values of its components, or a checkpoint's weights."""
        model, checkpoint = self._prepare(), self.scenario.model.checkpoint
        if any(component.initialises for component in self.stack.model_components):
            model.load_state_dict(dict(self._first_values))
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return model

    @cached_property
    def _first_values(self) -> Tensors:
        """The state dict once every component has looked at the public examples; found once, since it may take long."""
        model, seed = self._prepare(), self.scenario.seed
        with seeding.isolate_randomness(seeding.derive(seed, "first values")):
            for index, component in enumerate(self.stack.model_components):
                component.initialise(model, self.data.public, seeding.generator(seed, "initialise", index))
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def _prepare(self) -> nn.Module:
        """Return the model as components and defenses change it."""
        scenario = self.scenario
        with seeding.isolate_randomness(seeding.derive(scenario.seed, "weights")):
            model = self._bare()
            if not isinstance(model, nn.Module):
                raise FedsimError(f"model '{scenario.model.name}' returned {type(model).__name__}, expected nn.Module.")
            model = allow_second_derivatives(model)
            for index, component in enumerate(self.stack.model_components):
                model = component.prepare(model, seeding.generator(scenario.seed, "prepare", index))
            for index, defense in enumerate(self.stack.defenses):
                model = defense.prepare(model, seeding.generator(scenario.seed, "prepare defense", index))
        return model.train()

    def _bare(self) -> nn.Module:
        if self.own_model is not None:
            return self.own_model()
        with memory.refusing_too_large(f"model '{self.scenario.model.name}'"):
            return cast("nn.Module", self.scenario.model.make("model", self.data.dataset.spec))

    @cached_property
    def workspace(self) -> Workspace:
        """This process's one model to train with on the CPU."""
        model = self.new()
        return Workspace(model, Layout(model).buffers)
