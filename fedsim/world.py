"""A scenario made real: its data, the clients' shares, the model and the hooks, all derived from the seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim import seeding
from fedsim.data.partition import partition
from fedsim.errors import FedsimError, ScenarioError
from fedsim.hooks import Augmentation, Defense, LossTerm, ModelComponent, Optimizer
from fedsim.scenario import Choice, Scenario
from fedsim.types import Batch, Dataset, Loss, Tensors

cross_entropy: Loss = F.cross_entropy


@dataclass(frozen=True)
class World:
    """Built by `build`; read-only for everybody."""

    scenario: Scenario
    dataset: Dataset
    shares: tuple[Tensor, ...]
    model_components: tuple[ModelComponent[Any], ...]
    augmentations: tuple[Augmentation[Any], ...]
    loss_terms: tuple[LossTerm[Any], ...]
    defenses: tuple[Defense[Any], ...]
    optimizer: Optimizer[Any]

    def new_model(self) -> nn.Module:
        """Return the model with its first weights, in training mode: the same in every process."""
        scenario = self.scenario
        with seeding.contained(seeding.derive(scenario.seed, "weights")):
            model = cast("nn.Module", scenario.model.make("model", self.dataset.spec))
            if not isinstance(model, nn.Module):
                raise FedsimError(f"model '{scenario.model.name}' returned {type(model).__name__}, expected nn.Module.")
            for index, component in enumerate(self.model_components):
                model = component.prepare(model, seeding.generator(scenario.seed, "prepare", index))
        if scenario.model.checkpoint is not None:
            _load_checkpoint(model, scenario.model.checkpoint)
        return model.train()

    @cached_property
    def first_weights(self) -> Tensors:
        """The state dict that round 1 starts from."""
        return {name: t.detach().clone() for name, t in self.new_model().state_dict().items()}

    @cached_property
    def _workspace(self) -> nn.Module:
        return self.new_model()

    def model_with(self, weights: Tensors) -> nn.Module:
        """Return this process's one training model, holding `weights`. The next call overwrites it."""
        self._workspace.load_state_dict(dict(weights))
        return self._workspace.train()

    def batches(self, round_: int, client: int) -> Iterator[Batch]:
        """Yield the batch of every local step: random passes over the client's share, short rests left out."""
        settings = self.scenario.federation
        share = self.shares[client]
        generator = seeding.generator(self.scenario.seed, "batches", round_, client)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(settings.local_steps):
            if len(order) < settings.batch_size:
                order = torch.randperm(len(share), generator=generator)
            chosen, order = share[order[: settings.batch_size]], order[settings.batch_size :]
            yield Batch(self.dataset.train.inputs[chosen], self.dataset.train.labels[chosen])


def build(scenario: Scenario) -> World:
    """Return the world of one arm.

    Raises:
        FedsimError: the data set is missing or malformed, or a client would own fewer examples than a batch.
    """
    dataset = _dataset(scenario.data.model_dump_json())
    components = [choice.make("component") for choice in scenario.components]
    return World(
        scenario=scenario,
        dataset=dataset,
        shares=_shares(scenario, dataset),
        model_components=tuple(c for c in components if isinstance(c, ModelComponent)),
        augmentations=tuple(c for c in components if isinstance(c, Augmentation)),
        loss_terms=tuple(c for c in components if isinstance(c, LossTerm)),
        defenses=tuple(choice.make("defense") for choice in scenario.defenses),
        optimizer=scenario.federation.optimizer.make("component"),
    )


@lru_cache(maxsize=2)
def shared(scenario_json: str) -> World:
    """Return this process's world of a resolved scenario: what a Flower app finds in its run configuration."""
    return build(Scenario.model_validate_json(scenario_json))


@lru_cache(maxsize=2)
def _dataset(choice_json: str) -> Dataset:
    choice = Choice.model_validate_json(choice_json)
    dataset = choice.make("dataset")
    if not isinstance(dataset, Dataset):
        raise FedsimError(f"data '{choice.name}' returned {type(dataset).__name__}, expected fedsim.types.Dataset.")
    return dataset


def _shares(scenario: Scenario, dataset: Dataset) -> tuple[Tensor, ...]:
    settings, federation = scenario.partition, scenario.federation
    shares = partition(
        dataset.train.labels,
        federation.clients,
        seeding.generator(scenario.seed, "partition"),
        scheme=settings.scheme,
        alpha=settings.alpha,
        classes_per_client=settings.classes_per_client,
    )
    smallest = min(range(len(shares)), key=lambda client: len(shares[client]))
    if len(shares[smallest]) < federation.batch_size:
        raise ScenarioError(
            f"federation.batch_size is {federation.batch_size}, but client {smallest} owns {len(shares[smallest])} "
            f"examples. Expected at most that, or fewer clients, or a more even partition."
        )
    return shares


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                weights: dict[str, Any] = {name: torch.from_numpy(stored[name]) for name in stored.files}
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ScenarioError(f"model.checkpoint: cannot read weights from {path}: {error}") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ScenarioError(f"model.checkpoint: {path} does not fit the model: {error}") from error
