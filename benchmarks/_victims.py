"""Victims of a benchmark: single gradients at fresh weights, and the files that carry them to other processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.nets import checkpoints
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import dropout_sites, keep_masks
from fedsim.core.types import Batch, InputSpec, Knowledge, Observation, Tensors, ThreatModel, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import Choice, parse
from fedsim.scenario.world import World, build
from fedsim.threat import victim as observed
from fedsim.threat.observe import observe

PHOTOGRAPHS: Mapping[str, Any] = {"name": "foolbox-samples", "collection": "cifar10"}
DIGITS: Mapping[str, Any] = {"name": "mnist5k"}
KNOWN: tuple[Knowledge, ...] = ("batch-size", "dropout-rates", "input-statistics")
_CLIENTS = 20
_STEP_SIZE, _TRAINING_BATCH = 1e-3, 64


@dataclass(frozen=True)
class Victim:
    """One client's gradient, with the batch behind it for the scorer."""

    observation: Observation
    batch: Batch
    spec: InputSpec


def victims_of(
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    victims: int,
    *,
    batch_size: int = 1,
    knows: Sequence[Knowledge] = KNOWN,
    trained: int = 0,
    clients: int = _CLIENTS,
    defenses: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Victim]:
    """Yield the first gradients of the first clients, each on a batch of its own at the same weights.

    Args:
        data: data set and its settings.
        model: model and its settings.
        victims: number of clients to attack.
        batch_size: examples of a batch.
        knows: what the attacker knows.
        trained: steps of Adam on the training set that the weights went through; 0 for fresh ones.
        clients: number of clients that share the data, if the victims are not more.
        defenses: of the clients, in their order.
    """
    for observed_victim in observed_victims(
        data, model, victims, batch_size=batch_size, trained=trained, clients=clients, defenses=defenses
    ):
        yield seen_of(observed_victim, knows)


def seen_of(victim: observed.Victim, knows: Sequence[Knowledge] = KNOWN) -> Victim:
    """Return what an attacker who knows so much sees of an update, beside its batch."""
    return Victim(observe(victim, knows), victim.truth.batches[0], victim.world.data.dataset.spec)


def observed_victims(
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    victims: int,
    *,
    batch_size: int = 1,
    trained: int = 0,
    clients: int = _CLIENTS,
    defenses: Sequence[Mapping[str, Any]] = (),
) -> Iterator[observed.Victim]:
    """Yield the same updates beside their truth, as `victims_of`."""
    scenario = {
        "title": "benchmark",
        "seed": 5,
        "data": dict(data),
        "model": dict(model),
        "federation": {"clients": max(clients, victims), "batch_size": batch_size},
        "defenses": list(map(dict, defenses)),
    }
    world = world_of(scenario)
    received = trained_weights(world, trained) if trained else world.models.first_weights
    for client in range(victims):
        update, truth = local_training(world, received, 1, client)
        yield observed.Victim(world, WireEntry(1, client, received, update), truth)


def world_of(tables: dict[str, Any]) -> World:
    """Return the world of a scenario's tables."""
    return build(parse(tables, "benchmark"))


def trained_weights(world: World, steps: int, among: Tensor | None = None) -> Tensors:
    """Return weights after steps of Adam on random batches of the training set, or of those with these numbers."""
    model, train = world.models.new(), world.data.dataset.train
    train = train if among is None else train.select(among)
    optimizer = torch.optim.Adam(model.parameters(), lr=_STEP_SIZE)
    generator = seeding.generator(7, "training")
    for _ in range(steps):
        chosen = torch.randint(len(train.inputs), (_TRAINING_BATCH,), generator=generator)
        with keep_masks(generator):
            loss = cross_entropy(model(train.inputs[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def kept_weights(kind: str, description: Any, make: Callable[[], Tensors]) -> Path:
    """Return the file of weights in the cache; the first call makes them, with the same randomness everywhere.

    Args:
        kind: what the folder's name starts with.
        description: all that they depend on, as JSON can hold it.
        make: returns them.
    """

    def fill(into: Path) -> None:
        with seeding.isolate_randomness(0):
            torch.save(make(), into / checkpoints.WEIGHTS)

    name = f"{kind}-{hashlib.sha256(json.dumps(description).encode()).hexdigest()[:8]}"
    return checkpoints.make_once(name, fill, takes="some minutes") / checkpoints.WEIGHTS


def write(victims: Iterable[Victim], folder: Path) -> None:
    """Store victims that share their weights, a file each: tensors and numbers alone."""
    for number, victim in enumerate(victims):
        if number == 0:
            spec, weights = victim.spec, victim.observation.model.state_dict()
            torch.save(
                {"weights": weights, "spec": (spec.shape, spec.classes, spec.mean, spec.std)}, _model_path(folder)
            )
        gradient, batch = dict(victim.observation.update.tensors), victim.batch
        torch.save({"gradient": gradient, "inputs": batch.inputs, "labels": batch.labels}, _file_of(folder, number))


def read(folder: Path, model: Mapping[str, Any], numbers: Sequence[int]) -> list[Victim]:
    """Return stored victims, whose labels the attacker knows.

    Args:
        folder: where `write` stored them.
        model: name and settings of their model.
        numbers: of the victims.
    """
    stored = torch.load(_model_path(folder), weights_only=True)
    spec = InputSpec(*stored["spec"])
    network = _network(model, spec)
    network.load_state_dict(stored["weights"])
    return [_read(_file_of(folder, number), network, spec) for number in numbers]


def _read(file: Path, network: nn.Module, spec: InputSpec) -> Victim:
    stored = torch.load(file, weights_only=True)
    batch = Batch(stored["inputs"], stored["labels"])
    observation = Observation(
        threat=ThreatModel(knows=(*KNOWN, "labels")),
        model=network,
        loss=cross_entropy,
        update=Update("gradient", stored["gradient"], {}, len(batch), 0.0),
        spec=spec,
        local_steps=1,
        learning_rate=1.0,
        sites=dropout_sites(network, spec.shape, len(batch)),
        batch_size=len(batch),
        labels=batch.labels.clone(),
        masks=None,
        known_methods=(),
        task=Choice(name="classification").make("task"),
    )
    return Victim(observation, batch, spec)


def _network(model: Mapping[str, Any], spec: InputSpec) -> nn.Module:
    settings = dict(model)
    method = registry.get("model", settings.pop("name"))
    return cast("nn.Module", method.make(method.config.model_validate(settings), spec)).train()


def _model_path(folder: Path) -> Path:
    return folder / "model.pt"


def _file_of(folder: Path, number: int) -> Path:
    return folder / f"victim-{number}.pt"
