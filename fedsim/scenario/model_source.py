"""Factory of the clients' model, derived from the seed: built, prepared, initialised, changed by a malicious server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.core.foreign import pytorch
from fedsim.core.hooks import Attack, Task
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.nets.tensor_files import read_npz, read_saved
from fedsim.core.nets.vectors import Layout
from fedsim.core.types import DropoutSite, Tensors
from fedsim.scenario import memory
from fedsim.scenario.data import Data
from fedsim.scenario.stack import HookSet
from fedsim.scenario.tables import Scenario
from fedsim.scenario.tasks import trial


@dataclass(frozen=True)
class Crafted:
    """A malicious server's changes to the clients' model.

    Attributes:
        tensors: added or changed parameters and buffers, by their names in the model.
        added_names: names of tensors that the original model lacks.
    """

    tensors: Tensors
    added_names: frozenset[str]


@dataclass(frozen=True)
class ScratchModel:
    """A training model on a device; each user overwrites its weights."""

    model: nn.Module
    buffer_names: tuple[str, ...]

    def load_weights(self, weights: Tensors) -> nn.Module:
        """Load `weights` into the model, and return it in training mode. The next call overwrites it."""
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
        """The floating-point buffers that are part of an update."""
        return {name: b for name, b in self.model.named_buffers() if name in self.buffer_names}

    @cached_property
    def _slots(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())


@dataclass(frozen=True)
class ModelSource:
    """Factory of the clients' model with fixed initial weights; it keeps a single model for training.

    Attributes:
        scenario: scenario with the model's choice.
        data: source of the input shape and the public examples.
        stack: components and defenses that change the model.
        task: training task of the model.
        own_model: builds the model of user code instead of the scenario's; always with the same weights.
    """

    scenario: Scenario
    data: Data
    stack: HookSet
    task: Task[Any]
    own_model: Callable[[], nn.Module] | None = None

    def new(self) -> nn.Module:
        """Return a new model with the initial weights, in training mode, equal in every process.

        With a malicious server it is the model that the server has changed.

        Raises:
            NotApplicable: a component or a defense does not fit the model.
            ScenarioError: the attack of a malicious server does not fit the model.
        """
        may_not_be_copied = ":" in self.scenario.model.name  # user code may return objects without a copy
        return self._make() if may_not_be_copied else copy.deepcopy(self._original)

    def load_weights(self, weights: Tensors) -> nn.Module:
        """Load `weights` into this process's only training model, and return it. The next call overwrites it."""
        return self.workspace.load_weights(weights)

    def scratch_model(self, device: torch.device) -> ScratchModel:
        """Return a training model on a device: on the CPU the model of `load_weights`, elsewhere a new model."""
        if device.type == "cpu":
            return self.workspace
        _ = self.sites  # computed on the CPU, before a client needs them on the device
        return ScratchModel(self.new().to(device), self.layout.buffers)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the model of `load_weights`."""
        return self.workspace.parameters

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The floating-point buffers of the model of `load_weights` that are part of an update."""
        return self.workspace.buffers

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of an update's tensors."""
        return Layout(self.workspace.model)

    @cached_property
    def first_weights(self) -> Tensors:
        """The state dict at the start of round 1."""
        return {name: t.detach() for name, t in self._original.state_dict().items()}

    @cached_property
    def sites(self) -> tuple[DropoutSite, ...]:
        """The model's dropout sites, for a batch of size 1; of size 2 if clients use larger batches."""
        examples = min(2, self.scenario.federation.batch_size)  # batch normalisation cannot train on a single example
        spec, model = self.data.dataset.spec, self.new()
        return dropout_sites(model, spec.shape, examples, spec.dtype, self.trial(model))

    def trial(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a function that runs a model of this kind on any inputs."""
        return trial(self.task, self.data.dataset, model)

    @property
    def mixing_module(self) -> str | None:
        """Name and class of a module that mixes the examples of a batch, as text; None without such a module."""
        for name, module in self.workspace.model.named_modules():
            if isinstance(module, pytorch.BatchNorm):
                return f"'{name}' ({type(module).__name__})"
        return None

    @cached_property
    def crafted_changes(self) -> Crafted:
        """The server's changes to the model before it was sent; empty for an honest server."""
        if self.scenario.crafting_attack is None:
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
        """The original of all copies; it is never run or changed."""
        return self._make()

    def _make(self) -> nn.Module:
        model = self._initialise()
        return model if self.scenario.crafting_attack is None else self._craft(model)

    def _craft(self, model: nn.Module) -> nn.Module:
        scenario, spec = self.scenario, self.data.dataset.spec
        choice = scenario.crafting_attack
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
        """Return the honest clients' model: initialised by its components, or with a checkpoint's weights."""
        model, checkpoint = self._prepare(), self.scenario.model.checkpoint
        if any(component.initialises for component in self.stack.model_components):
            model.load_state_dict(dict(self._first_values))
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return model

    @cached_property
    def _first_values(self) -> Tensors:
        """The state dict after all components were initialised on public examples; cached, because it may be slow."""
        model, seed = self._prepare(), self.scenario.seed
        with seeding.isolate_randomness(seeding.derive(seed, "first values")):
            for index, component in enumerate(self.stack.model_components):
                component.initialise(model, self.data.public, seeding.generator(seed, "initialise", index))
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def _prepare(self) -> nn.Module:
        """Build the model, and apply the changes of components and defenses."""
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
            return self.scenario.model.make("model", self.data.dataset.spec)

    @cached_property
    def workspace(self) -> ScratchModel:
        """This process's only training model on the CPU."""
        model = self.new()
        return ScratchModel(model, Layout(model).buffers)


@final
class ComposedHardsigmoid(nn.Module):
    """relu6(x + 3) / 6, equal to hardsigmoid in value and gradient, but with a second derivative."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return values in [0, 1], of the same shape."""
        return F.relu6(inputs + 3) / 6


def allow_second_derivatives(model: nn.Module) -> nn.Module:
    """Replace each `Hardsigmoid` of a model in place, and return the model.

    Calls of `torch.nn.functional.hardsigmoid` are not replaced.
    """
    if isinstance(model, nn.Hardsigmoid):
        return ComposedHardsigmoid()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(parent, name, ComposedHardsigmoid())
    return model


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load the weights of a file into a model.

    Raises:
        ScenarioError: the file is missing, contains something else, or does not fit the model.
    """
    weights = _read_weights(path)
    strangers = [name for name in weights if not isinstance(name, str) or not isinstance(weights[name], Tensor)]
    if strangers:
        raise ScenarioError(
            f"model.checkpoint: {path} holds {type(weights[strangers[0]]).__name__} at '{strangers[0]}', expected "
            "tensors by name: a state dict, as torch.save(model.state_dict(), path) writes it."
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ScenarioError(f"model.checkpoint: {path} does not fit the model: {why}") from error


def _read_weights(path: Path) -> dict[Any, Any]:
    """Read a state dict without executing code in the file."""
    if not path.is_file():
        raise ScenarioError(f"model.checkpoint: no file {path}.")
    try:
        content = read_npz(path) if path.suffix == ".npz" else read_saved(path)
    except FedsimError as error:
        raise ScenarioError(f"model.checkpoint: {error}") from error
    if not isinstance(content, dict):
        raise ScenarioError(
            f"model.checkpoint: {path} holds a {type(content).__name__}, expected a state dict of tensors by name, as "
            "torch.save(model.state_dict(), path) writes it."
        )
    return cast("dict[Any, Any]", content)
