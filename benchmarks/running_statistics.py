"""What does a network with batch normalisation lose where running statistics leave as received, or with noise?

The server tests the global model in evaluation mode, which reads the running statistics. Received statistics stay those
of the untrained network; "re-estimated" replaces them by those of 100 public examples before the test. Clients train
on digits of 8x8 pixels. Noise is stated by its standard deviation on an entry. With the noise of a useful epsilon, four
clients train no network of this size, so small noise separates the loss by statistics from the loss by noisy weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models import DenseNet

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._victims import world_of
from fedsim.core.registry import for_scenarios
from fedsim.core.types import InputSpec, Tensors
from fedsim.experiment import runner
from fedsim.federation.apps import evaluate_model
from fedsim.scenario.world import World

_ROUNDS, _CLIENTS, _BATCH = 30, 4, 32
_PUBLIC = 100  # examples of the server
_CLIP = 10.0  # above the norm of nearly all updates
_DEVIATIONS = (0.0, 0.01)
_NETWORKS: dict[str, dict[str, Any]] = {
    "DenseNet": {"name": "benchmarks.running_statistics:small_densenet"},
    "ResNet-18": {
        "name": "benchmarks._frontier_models:resnet18",
        "width": 16,
        "activation": "relu",
        "norm": "batch",
    },
}


@for_scenarios
def small_densenet(spec: InputSpec) -> nn.Module:
    """Build torchvision's DenseNet with two blocks of three layers, growth rate 8, and a 3x3 stem without pooling."""
    blocks: Any = (3, 3)  # its annotation asks for four
    model = DenseNet(growth_rate=8, block_config=blocks, num_init_features=16, num_classes=spec.classes)
    model.features.conv0 = nn.Conv2d(spec.shape[0], 16, 3, padding=1, bias=False)
    model.features.pool0 = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def defenses(running_statistics: str, deviation: float) -> list[dict[str, Any]]:
    """Return the table of local-dp with noise of a standard deviation on each entry."""
    noise = {"clip": _CLIP, "noise_multiplier": deviation / _CLIP}
    return [{"name": "local-dp", **noise, "running_statistics": running_statistics}]


def accuracies(network: dict[str, Any], defended: list[dict[str, Any]], seed: int) -> tuple[float, float]:
    """Return the accuracy after training, as it is and with re-estimated running statistics."""
    federation = {
        "algorithm": "fedavg",
        "clients": _CLIENTS,
        "batch_size": _BATCH,
        "local_epochs": 1,
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "rounds": _ROUNDS,
        "evaluate_every": 1000,
    }
    tables = {"data": {"name": "digits"}, "model": network, "federation": federation, "defenses": defended}
    world = world_of({"seed": seed, **tables})
    weights = runner.train(world, lambda _record: None).weights
    return _accuracy(world, weights), _accuracy(world, re_estimated(world, weights))


def re_estimated(world: World, weights: Tensors) -> Tensors:
    """Return weights with the running statistics of public examples: the first of the test set, without labels."""
    model = world.models.load_weights(weights).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a cumulative mean
    with torch.no_grad():
        model(next(world.data.dataset.test.split(_PUBLIC)).inputs)
    state = model.state_dict()
    return {name: state[name].clone() for name in weights}


def _accuracy(world: World, weights: Tensors) -> float:
    found = float(next(iter(evaluate_model(world, weights).values())))
    return found if math.isfinite(found) else 0.0


@experiment("running-statistics", minutes=13, page="defenses/local-dp")
def running_statistics(budget: Budget) -> Cells:
    """Return a cell for each network; the long version takes more seeds."""
    seeds = range(10 if budget.full else 3)
    return {name: partial(_rows, name, seeds) for name in _NETWORKS}


def _rows(name: str, seeds: Sequence[int]) -> Iterator[Row]:
    settings: dict[str, list[dict[str, Any]]] = {"no defense": []}
    for deviation in _DEVIATIONS:
        for choice in ("received", "noised"):
            settings[f"{choice}, noise {deviation:g}"] = defenses(choice, deviation)
    for setting, defended in settings.items():
        found = [accuracies(_NETWORKS[name], defended, seed) for seed in seeds]
        yield mean_row("accuracy", f"{name}, {setting}", [plain for plain, _ in found], "share")
        yield mean_row("accuracy, re-estimated", f"{name}, {setting}", [renewed for _, renewed in found], "share")
