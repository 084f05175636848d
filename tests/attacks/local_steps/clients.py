"""Clients of several local steps, and what an attack finds of them."""

from typing import Any

from torch import nn

from attacks.core.matching.simulated_client import SimulatedClient
from attacks.local_steps._unrolled import UnrolledComparison, local_steps
from fedsim.core import seeding
from fedsim.core.examples import unique_examples
from fedsim.core.types import Observation, Reconstruction, Truth
from fedsim.metrics.image import score_items
from fedsim.scenario.world import World
from tests.attacks.solving import attack_named

SGD = {"name": "sgd", "learning_rate": 0.1}


def mlp(dropout: float) -> nn.Module:
    with seeding.isolate_randomness(1):
        layers = [nn.Flatten(), nn.Linear(12, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 4)]
        return nn.Sequential(*layers).double()


def client_of(observation: Observation) -> SimulatedClient:
    return SimulatedClient(observation.model, observation.loss, tuple(observation.update.tensors), observation.sites)


def small(**federation: Any) -> dict[str, Any]:
    """Four examples a client, and its local training."""
    return {
        "partition": {"scheme": "resampled", "examples_per_client": 4},
        "federation": {"algorithm": "fedavg", "optimizer": SGD, **federation},
    }


def wide(dropout: float) -> dict[str, Any]:
    return {"name": "mlp", "width": 96, "depth": 2, "dropout": dropout}


def found(name: str, seen: tuple[Observation, Truth, World], **choices: Any) -> tuple[Reconstruction, list[float]]:
    observation, truth, world = seen
    guess = attack_named(name, **choices)(observation, seeding.generator(1, "attack"))
    return guess, [
        item.values["psnr"]
        for item in score_items(guess, unique_examples(truth.batches), world.data.dataset.spec).items
    ]


def unrolled(observation: Observation, checkpointed: bool = False) -> UnrolledComparison:
    return UnrolledComparison(client_of(observation), [observation], local_steps(observation), checkpointed)
