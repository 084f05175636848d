"""Victims of a benchmark: single gradients at fresh weights, and the files that carry them to other processes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._passes import timed
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.nets import checkpoints
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import dropout_sites, keep_masks
from fedsim.core.types import (
    Batch,
    InputSpec,
    Knowledge,
    Observation,
    Reconstruction,
    Tensors,
    ThreatModel,
    Update,
    WireEntry,
)
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
    knows: Sequence[Knowledge] = KNOWN,
    **client: Any,
) -> Iterator[Victim]:
    """Yield the updates of `observed_victims` as an attacker with this knowledge sees them."""
    return (seen_of(victim, knows) for victim in observed_victims(data, model, victims, **client))


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
    """Yield the first gradients of the first clients, each on a batch of its own at the same weights.

    Args:
        data: data set and its settings.
        model: model and its settings.
        victims: number of clients to attack.
        batch_size: examples of a batch.
        trained: steps of Adam on the training set that the weights went through; 0 for fresh ones.
        clients: number of clients that share the data, if the victims are not more.
        defenses: of the clients, in their order.
    """
    federation = {"clients": max(clients, victims), "batch_size": batch_size}
    tables = {"data": dict(data), "model": dict(model), "federation": federation, "defenses": list(map(dict, defenses))}
    world = world_of({"seed": 5, **tables})
    received = trained_weights(world, trained) if trained else None
    return (send_update(world, client, received) for client in range(victims))


def send_update(world: World, client: int = 0, weights: Tensors | None = None, round_: int = 1) -> observed.Victim:
    """Return a client's update of a round beside its truth; without weights it receives the first ones."""
    received = world.models.first_weights if weights is None else weights
    update, truth = local_training(world, received, round_, client)
    return observed.Victim(world, WireEntry(round_, client, received, update), truth)


def world_of(tables: Mapping[str, Any]) -> World:
    """Return the world of a scenario's tables, which may do without a title."""
    return build(parse({"title": "benchmark", **tables}, "benchmark"))


def make_attack(name: str, **settings: Any) -> Attack[Any]:
    """Return an attack by its name."""
    return Choice(name=name, settings=settings).make("attack")


def try_attack(attack: Attack[Any], observation: Observation, *draws: Any) -> tuple[Reconstruction | None, float]:
    """Return a guess and its processor seconds; None where the attack does not apply, for a reason that is printed.

    Args:
        attack: the attack.
        observation: what it sees.
        draws: seed and words of the generator that it draws from.
    """

    def guess() -> Reconstruction | None:
        try:
            return attack(observation, seeding.generator(*draws))
        except NotApplicable as reason:
            print(f"{attack.name}: {reason}", file=sys.stderr)
            return None

    return timed(guess)


def gradient_seen(
    model: nn.Module, gradient: Tensors, batch: Batch, spec: InputSpec, task: str = "classification", **known: Any
) -> Observation:
    """Return what a server sees of the gradient of one step on a batch, whose size and dropout rates it knows."""
    given = {"threat": ThreatModel(knows=("batch-size", "dropout-rates")), "sites": (), "labels": None, **known}
    return Observation(
        model=model,
        loss=cross_entropy,
        update=Update("gradient", gradient, {}, len(batch), 0.0),
        spec=spec,
        local_steps=1,
        learning_rate=1.0,
        batch_size=len(batch),
        masks=None,
        known_methods=(),
        task=Choice(name=task).make("task"),
        **given,
    )


def trained_weights(world: World, steps: int, among: Tensor | None = None) -> Tensors:
    """Return weights after steps of Adam on random batches of the training set, or of those with these numbers."""
    model, train = world.models.new(), world.data.dataset.train
    train = train if among is None else train.select(among)
    optimizer = torch.optim.Adam(model.parameters(), lr=_STEP_SIZE)
    generator = seeding.generator(7, "training")
    for _ in range(steps):
        batch = train.select(torch.randint(len(train.inputs), (_TRAINING_BATCH,), generator=generator))
        with keep_masks(generator):
            loss = cross_entropy(model(batch.inputs), batch.labels)
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
        spec, batch, observation = victim.spec, victim.batch, victim.observation
        if number == 0:
            facts = (spec.shape, spec.classes, spec.mean, spec.std)
            torch.save({"weights": observation.model.state_dict(), "spec": facts}, folder / "model.pt")
        stored = {"gradient": dict(observation.update.tensors), "inputs": batch.inputs, "labels": batch.labels}
        torch.save(stored, folder / f"victim-{number}.pt")


def read(folder: Path, model: Mapping[str, Any], numbers: Sequence[int]) -> list[Victim]:
    """Return stored victims, whose labels the attacker knows.

    Args:
        folder: where `write` stored them.
        model: name and settings of their model.
        numbers: of the victims.
    """
    stored = torch.load(folder / "model.pt", weights_only=True)
    spec = InputSpec(*stored["spec"])
    network = Choice.model_validate(model).make("model", spec).train()
    network.load_state_dict(stored["weights"])
    return [_read(folder / f"victim-{number}.pt", network, spec) for number in numbers]


def _read(file: Path, network: nn.Module, spec: InputSpec) -> Victim:
    stored = torch.load(file, weights_only=True)
    batch = Batch(stored["inputs"], stored["labels"])
    known = {"threat": ThreatModel(knows=(*KNOWN, "labels")), "labels": batch.labels.clone()}
    sites = dropout_sites(network, spec.shape, len(batch))
    return Victim(gradient_seen(network, stored["gradient"], batch, spec, sites=sites, **known), batch, spec)
