"""A scenario made real: its data, the clients' shares, the model and the hooks, all derived from the seed."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.core import losses, seeding
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError, in_a_line
from fedsim.core.hooks import (
    PLACES,
    Aggregator,
    Attack,
    Augmentation,
    Component,
    Defense,
    LossTerm,
    ModelComponent,
    Objective,
    Optimizer,
    Rules,
    ServerRound,
)
from fedsim.core.masks import dropout_sites
from fedsim.core.types import Batch, Dataset, DropoutSite, Loss, Mechanism, PublicKnowledge, Tensors
from fedsim.core.vectors import Layout
from fedsim.data.label_noise import noisy_labels
from fedsim.data.partition import partition
from fedsim.scenario import Choice, Scenario, own_models


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
class World:
    """Built by `build`; read-only for everybody.

    Attributes:
        own_model: makes the model of a user's own code, in place of the scenario's; always with the same weights.
        criterion: what clients minimise where no component says so, ``criterion(outputs, labels) -> scalar``.
    """

    scenario: Scenario
    dataset: Dataset
    shares: Sequence[Tensor]
    components: tuple[Component[Any], ...]
    defenses: tuple[Defense[Any], ...]
    optimizer: Optimizer[Any]
    server_optimizer: Optimizer[Any]
    own_model: Callable[[], nn.Module] | None = None
    criterion: Loss = losses.cross_entropy

    @cached_property
    def model_components(self) -> tuple[ModelComponent[Any], ...]:
        """Those that change the model."""
        return tuple(c for c in self.components if isinstance(c, ModelComponent))

    @cached_property
    def augmentations(self) -> tuple[Augmentation[Any], ...]:
        """Those that change batches."""
        return tuple(c for c in self.components if isinstance(c, Augmentation))

    @cached_property
    def objectives(self) -> tuple[Objective[Any], ...]:
        """Those that take the place of the cross-entropy: at most one, as `check_components` says."""
        return tuple(c for c in self.components if isinstance(c, Objective))

    @cached_property
    def loss_terms(self) -> tuple[LossTerm[Any], ...]:
        """Those that add to the loss."""
        return tuple(c for c in self.components if isinstance(c, LossTerm))

    def loss(self, round_: int) -> Loss:
        """Return what a client minimises in a round, ``loss(outputs, labels) -> scalar``, without added terms."""
        for objective in self.objectives:
            return partial(objective.objective, round_=round_)
        return self.criterion

    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Take a client's step: the optimizer's, by as much as the components let it. Changes `parameters` in place."""
        factors: dict[str, Tensor] = {}
        for component in self.model_components:
            factors |= component.step_factors(parameters)
        self.optimizer.weighed_step(factors, parameters, gradient, state)

    @property
    def component_views(self) -> tuple[PublicKnowledge, ...]:
        """What an attacker who knows the components knows."""
        views = (component.public_view() for component in self.components)
        return tuple(view for view in views if view is not None)

    def new_aggregator(self) -> Aggregator[Any]:
        """Return the aggregation rule of one run; it may keep what it needs from round to round."""
        return self.scenario.aggregation.make("aggregator")

    @property
    def remembers(self) -> bool:
        """Whether what a client sends depends on earlier rounds of its own."""
        hooks = (*self.augmentations, *self.loss_terms, *self.defenses)
        return self.scenario.federation.keep_optimizer_state or any(hook.remembers for hook in hooks)

    @cached_property
    def rules(self) -> Rules:
        """What is public about the federation."""
        settings, sizes = self.scenario.federation, _sizes(self.shares)
        clients, participation = settings.clients, self.scenario.participation
        return Rules(
            algorithm=settings.algorithm,
            rounds=settings.rounds,
            steps=max(self.steps(client) for client in range(len(sizes))),
            batch_size=settings.batch_size,
            examples=min(sizes),
            most_examples=max(sizes),
            shape=self.dataset.spec.shape,
            classes=self.dataset.spec.classes,
            sampling=settings.sampling,
            clients=clients,
            cohort=self.expected_participants,
            cohort_sampling=participation.sampling,
            loss_terms=tuple(type(term).__name__ for term in (*self.objectives, *self.loss_terms)),
            batch_readers=(*(type(hook).__name__ for hook in self._batch_readers()), *self.whole_batch_components),
            hides_updates=self.scenario.secure_aggregation is not None,
            smallest_sum=self._smallest_sum,
            quantisation=self.scenario.secure_aggregation,
            vocabulary=self.dataset.spec.vocabulary,
            label_shape=tuple(self.dataset.train.labels.shape[1:]),
            padding=self.dataset.spec.padding,
            borders=self.dataset.spec.borders,
        )

    def _batch_readers(self) -> Iterator[Augmentation[Any] | Defense[Any]]:
        yield from self.augmentations
        for defense in self.defenses:
            reads = defense.needs_step or defense.overrides("on_batch") or defense.overrides("loss")
            if reads and not defense.overrides("on_examples"):
                yield defense

    @property
    def whole_batch_components(self) -> tuple[str, ...]:
        """What in the model takes a batch as a whole, by names for people."""
        readers = (component.batch_reader for component in self.model_components)
        return tuple(reader for reader in readers if reader is not None)

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
        found = zip(self.scenario.defenses, _as_written(self.scenario), strict=True)
        stated = {choice.name: defense.mechanism(self.rules) for choice, defense in found}
        return {name: mechanism for name, mechanism in stated.items() if mechanism is not None}

    @cached_property
    def server_mechanism(self) -> Mechanism | None:
        """What private mechanism the server's rule runs in each round."""
        return self.new_aggregator().mechanism(self.rules)

    @property
    def expected_participants(self) -> float:
        """Clients that are asked in a round on average."""
        scenario = self.scenario
        if scenario.participation.sampling == "fixed":
            return scenario.cohort_size
        return scenario.sampling_rate * scenario.federation.clients

    def server_round(self, round_: int, received: Tensors | None = None) -> ServerRound:
        """Return a round as the aggregation rule sees it; `received` are the weights that clients started from."""
        generator = seeding.generator(self.scenario.seed, "server", round_)
        expected, layout = self.expected_participants, self.layout
        return ServerRound(round_, generator, expected, layout.size, received or {}, layout)

    def check(self) -> None:
        """Say before the first round whether every component, every defense and the aggregation rule fit.

        Raises:
            ScenarioError: one does not, with the reason.
        """
        if self.objectives[1:]:
            names = " and ".join(type(objective).__name__ for objective in self.objectives[:2])
            raise ScenarioError(f"components: {names} both say what a client minimises. Leave one out.")
        self._check_modality()
        self._check_labels()
        for choice, component in zip(self.scenario.components, self.components, strict=True):
            reason = component.refuses(self.rules, self.model_with(self.first_weights))
            if reason is not None:
                raise ScenarioError(f"component '{choice.name}' does not fit: {reason}.")
        per_example = [defense for defense in self.defenses if defense.overrides("on_examples")]
        if per_example[1:]:
            raise ScenarioError(
                "defenses: two of them clip the gradient of every example; a step has only one. Leave one out."
            )
        for choice, defense in zip(self.scenario.defenses, _as_written(self.scenario), strict=True):
            reason = defense.refuses(self.rules, self.model_with(self.first_weights))
            if reason is not None:
                raise ScenarioError(f"defense '{choice.name}' does not fit: {reason}.")
        reason = self.new_aggregator().refuses(self.rules, self.model_with(self.first_weights))
        if reason is not None:
            raise ScenarioError(f"aggregation rule '{self.scenario.aggregation.name}' does not fit: {reason}.")

    def _check_modality(self) -> None:
        """Say what does not work on text; `fits` says it for attacks."""
        scenario, modality = self.scenario, self.dataset.spec.modality
        hooks = [("component", *own) for own in zip(scenario.components, self.components, strict=True)]
        hooks += [("defense", *own) for own in zip(scenario.defenses, _as_written(scenario), strict=True)]
        for kind, choice, hook in hooks:
            if modality not in hook.modalities:
                works = " and ".join(sorted(hook.modalities))
                raise ScenarioError(
                    f"{kind} '{choice.name}' does not fit: it works on {works}, and the examples are {modality}."
                )
        if modality == "images":
            return
        if scenario.audit is not None:
            raise ScenarioError("audit: its canaries are images, and the examples are text. Leave the audit out.")
        granted = {*scenario.threat.knows, *(known for attack in scenario.attacks for known in attack.also_knows)}
        if scenario.attacks and "labels" in granted and self.dataset.spec.labels_are_text:
            raise ScenarioError(
                "threat.knows: the labels of a language model are the text itself, one token later. Leave out 'labels'."
            )

    def _check_labels(self) -> None:
        """Say what sentences without labels cannot do without, and what they cannot be used for."""
        name = self.scenario.data.name
        if self.dataset.similarities is None:
            return
        if not self.objectives:
            raise ScenarioError(
                f"components: the examples of data '{name}' have no labels, so a component must say what a client "
                "minimises. Add one, for example 'esimcse'."
            )
        if self.scenario.membership is not None:
            raise ScenarioError(
                f"membership: its attacks look at the loss of an example, and those of data '{name}' have no labels. "
                "Leave the membership out."
            )

    def new_model(self) -> nn.Module:
        """Return the model with its first weights, in training mode: the same in every process.

        Under a malicious server it is the model that this server has changed.

        Raises:
            NotApplicable: the model has no place for a component or a defense.
            ScenarioError: the model has no place for the attack that a malicious server chose.
        """
        model = self._honest_model()
        return model if self.scenario.crafting is None else self._crafted(model)

    @cached_property
    def crafted(self) -> Crafted:
        """What the server changed in the model before it handed it out: nothing, if it is honest."""
        if self.scenario.crafting is None:
            return Crafted({}, frozenset())
        honest = self._honest_model()
        own = {id(t): t.detach().clone() for t in honest.state_dict(keep_vars=True).values()}
        sent = self._crafted(honest).state_dict(keep_vars=True)
        added = {name for name, tensor in sent.items() if id(tensor) not in own}
        changed = {name for name in sent.keys() - added if not torch.equal(sent[name], own[id(sent[name])])}
        tensors = {name: t.detach().clone() for name, t in sent.items() if name in added | changed}
        return Crafted(tensors, frozenset(added))

    def _crafted(self, model: nn.Module) -> nn.Module:
        scenario, spec = self.scenario, self.dataset.spec
        choice = scenario.crafting
        assert choice is not None
        attack = cast("Attack[Any]", choice.make("attack"))
        if spec.modality not in attack.modalities:
            raise ScenarioError(f"attack '{choice.name}' cannot change this model: the examples are {spec.modality}.")
        with seeding.contained(seeding.derive(scenario.seed, "craft")):
            try:
                crafted = attack.craft(model, spec, self._public, seeding.generator(scenario.seed, "craft", 0))
            except NotApplicable as reason:
                raise ScenarioError(f"attack '{choice.name}' cannot change this model: {reason}.") from reason
        return crafted.train()

    @property
    def _public(self) -> Tensor:
        """The server's own examples: the test set, or none of it where that is the training set."""
        train, test = self.dataset.train.inputs, self.dataset.test.inputs
        return test[:0] if torch.equal(train, test) else test

    def _honest_model(self) -> nn.Module:
        model, checkpoint = self._prepared_model(), self.scenario.model.checkpoint
        if any(component.initialises for component in self.model_components):
            model.load_state_dict(dict(self._first_values))
        if checkpoint is not None:
            _load_checkpoint(model, checkpoint)
        return model

    def _prepared_model(self) -> nn.Module:
        scenario = self.scenario
        with seeding.contained(seeding.derive(scenario.seed, "weights")):
            model = self._bare_model()
            if not isinstance(model, nn.Module):
                raise FedsimError(f"model '{scenario.model.name}' returned {type(model).__name__}, expected nn.Module.")
            for index, component in enumerate(self.model_components):
                model = component.prepare(model, seeding.generator(scenario.seed, "prepare", index))
            for index, defense in enumerate(self.defenses):
                model = defense.prepare(model, seeding.generator(scenario.seed, "prepare defense", index))
        return model.train()

    def _bare_model(self) -> nn.Module:
        if self.own_model is not None:
            return self.own_model()
        return cast("nn.Module", self.scenario.model.make("model", self.dataset.spec))

    @cached_property
    def _first_values(self) -> Tensors:
        """The state dict once every component has looked at the public examples; found once, since it may take long."""
        model = self._prepared_model()
        with seeding.contained(seeding.derive(self.scenario.seed, "first values")):
            for index, component in enumerate(self.model_components):
                component.initialise(model, self._public, seeding.generator(self.scenario.seed, "initialise", index))
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @cached_property
    def first_weights(self) -> Tensors:
        """The state dict that round 1 starts from."""
        return {name: t.detach().clone() for name, t in self.new_model().state_dict().items()}

    @cached_property
    def sites(self) -> tuple[DropoutSite, ...]:
        """Where the model drops out, for a batch of one example; of two if clients train on more than one."""
        examples = min(2, self.scenario.federation.batch_size)  # batch normalisation refuses to train on one
        spec = self.dataset.spec
        return dropout_sites(self.new_model(), spec.shape, examples, spec.dtype)

    @property
    def mixing_module(self) -> str | None:
        """Name and class of a module that mixes the examples of a batch, for people; None when there is none."""
        for name, module in self._workspace.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                return f"'{name}' ({type(module).__name__})"
        return None

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of what an update carries."""
        return Layout(self._workspace)

    @cached_property
    def _workspace(self) -> nn.Module:
        return self.new_model()

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters of the model that `model_with` returns."""
        return {name: p for name, p in self._workspace.named_parameters() if p.requires_grad}

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """The floating-point buffers of that model that travel with an update."""
        return {name: b for name, b in self._workspace.named_buffers() if name in self.layout.buffers}

    @cached_property
    def _slots(self) -> dict[str, Tensor]:
        return dict(self._workspace.state_dict())

    def model_with(self, weights: Tensors) -> nn.Module:
        """Return this process's one training model, holding `weights`. The next call overwrites it."""
        if weights.keys() != self._slots.keys():
            self._workspace.load_state_dict(dict(weights))
        for name, slot in self._slots.items():
            slot.copy_(weights[name])
        return self._workspace if self._workspace.training else self._workspace.train()

    def steps(self, client: int) -> int:
        """Return the number of local steps that a client takes in a round."""
        settings = self.scenario.federation
        if settings.local_epochs is None:
            return settings.local_steps
        return settings.local_epochs * math.ceil(len(self.shares[client]) / settings.batch_size)

    def batches(self, round_: int, client: int) -> Iterator[Batch]:
        """Yield the batch of every local step."""
        train = self.dataset.train
        for chosen in self.drawn(round_, client):
            yield Batch(train.inputs.index_select(0, chosen), train.labels.index_select(0, chosen))

    def drawn(self, round_: int, client: int) -> Iterator[Tensor]:
        """Yield the numbers of the training examples of every local step."""
        return self.choices(client, seeding.generator(self.scenario.seed, "batches", round_, client))

    def choices(self, client: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the numbers of the training examples of every local step: random passes over the client's share.

        With `local_steps` the short rest of a pass is left out, with `local_epochs` it is a batch of its own. Under
        Poisson sampling each example is in each step's batch independently.
        """
        settings, share = self.scenario.federation, self.shares[client]
        if settings.sampling == "poisson":
            rate = min(1.0, settings.batch_size / share.shape[0])
            for _ in range(self.steps(client)):
                drawn = torch.rand(share.shape[0], generator=generator, dtype=torch.float64)
                yield share[drawn < rate]
            return
        if settings.local_epochs is not None:
            for _ in range(settings.local_epochs):
                order = share.index_select(0, torch.randperm(share.shape[0], generator=generator))
                yield from (order,) if order.shape[0] <= settings.batch_size else order.split(settings.batch_size)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(settings.local_steps):
            if order.shape[0] < settings.batch_size:
                order = torch.randperm(share.shape[0], generator=generator)
            chosen, order = order[: settings.batch_size], order[settings.batch_size :]
            yield share[chosen]


def build(scenario: Scenario) -> World:
    """Return the world of one arm.

    Raises:
        FedsimError: the data set is missing or malformed, cannot be shared out like that, or a client would own
            fewer examples than a local step takes.
    """
    dataset = _dataset(scenario.data.model_dump_json())
    world = World(
        scenario=scenario,
        dataset=_with_noise(scenario, dataset),
        shares=_shares(scenario, dataset),
        components=tuple(choice.make("component") for choice in scenario.components),
        defenses=tuple(sorted(_as_written(scenario), key=lambda defense: PLACES.index(defense.place))),
        optimizer=scenario.federation.optimizer.make("component"),
        server_optimizer=scenario.aggregation.optimizer.make("component"),
    )
    if ":" in scenario.model.name:
        _check_own_model(world)
    return world


def _check_own_model(world: World) -> None:
    """Try a model that a user brings, on as many examples as a local step has, at most two."""
    scenario, train = world.scenario, world.dataset.train
    few = min(2, scenario.federation.batch_size)
    own_models.checked(
        lambda: scenario.model.make("model", world.dataset.spec),
        Batch(train.inputs[:few], train.labels[:few]),
        None if world.objectives else world.criterion,
        world.dataset.spec.classes,
        whose=f"model '{scenario.model.name}'",
    )


def _as_written(scenario: Scenario) -> tuple[Defense[Any], ...]:
    return tuple(choice.make("defense") for choice in scenario.defenses)


def _sizes(shares: Sequence[Tensor]) -> list[int]:
    """Return how many examples clients own; where shares are drawn on demand all are equal, and the first stands."""
    return [len(share) for share in shares] if isinstance(shares, tuple) else [len(shares[0])]


@lru_cache(maxsize=2)
def shared(scenario_json: str) -> World:
    """Return this process's world of a resolved scenario: what a Flower app finds in its run configuration."""
    return build(Scenario.model_validate_json(scenario_json))


@lru_cache(maxsize=2)
def _dataset(choice_json: str) -> Dataset:
    choice = Choice.model_validate_json(choice_json)
    dataset = choice.make("dataset")
    if not isinstance(dataset, Dataset):
        raise FedsimError(
            f"data '{choice.name}' returned {type(dataset).__name__}, expected fedsim.core.types.Dataset."
        )
    return dataset


def _with_noise(scenario: Scenario, dataset: Dataset) -> Dataset:
    settings, train = scenario.label_noise, dataset.train
    if settings is None:
        return dataset
    if dataset.spec.modality == "text":
        raise ScenarioError("label_noise: it changes the class of an image, and the examples are text. Leave it out.")
    generator = seeding.generator(scenario.seed, "label noise")
    labels = noisy_labels(train.labels, dataset.class_names, settings.scheme, settings.rate, generator)
    return replace(dataset, train=Batch(train.inputs, labels))


def _shares(scenario: Scenario, dataset: Dataset) -> Sequence[Tensor]:
    settings, federation = scenario.partition, scenario.federation
    shares = partition(
        dataset.train.labels,
        federation.clients,
        seeding.generator(scenario.seed, "partition"),
        scheme=settings.scheme,
        alpha=settings.alpha,
        classes_per_client=settings.classes_per_client,
        examples_per_client=settings.examples_per_client,
        users=dataset.users,
    )
    if federation.local_epochs is None:
        _check_batch(federation.batch_size, shares)
    return shares


def _check_batch(batch_size: int, shares: Sequence[Tensor]) -> None:
    sizes = _sizes(shares)
    smallest = min(range(len(sizes)), key=sizes.__getitem__)
    if sizes[smallest] < batch_size:
        raise ScenarioError(
            f"federation.batch_size is {batch_size}, but client {smallest} owns {sizes[smallest]} examples. "
            "Expected at most that, or fewer clients, a more even partition, or local_epochs instead of local_steps."
        )


def _load_checkpoint(model: nn.Module, path: Path) -> None:
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
    """Read a state dict; nothing in the file is run."""
    if not path.is_file():
        raise ScenarioError(f"model.checkpoint: there is no file {path}.")
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: torch.from_numpy(stored[name]) for name in stored.files}
        with warnings.catch_warnings(action="ignore"):  # of torch, about pickles that it then refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words advise to run the file
        raise ScenarioError(
            f"model.checkpoint: {path} is no file of weights, or holds more than tensors, which could run code, so it "
            "was not opened. Write it with torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:
        raise ScenarioError(f"model.checkpoint: cannot read weights from {path}: {in_a_line(error)}") from error
    if not isinstance(found, dict):
        raise ScenarioError(
            f"model.checkpoint: {path} holds a {type(found).__name__}, expected a state dict of tensors by name, as "
            "torch.save(model.state_dict(), path) writes it."
        )
    return cast("dict[Any, Any]", found)
