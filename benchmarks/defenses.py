"""What does a defense cost a client in time, and secure aggregation a round?

Every registered defense beside none: one client's local training of LeNet, five steps of 32 digits each. DP-SGD also
beside Opacus in its own plain loop. Passes alternate; a ratio is of medians, in processor seconds.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import SETTLING, time_alternately
from benchmarks._rows import Row, ratio
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense
from fedsim.experiment import runner
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario, parse
from fedsim.scenario.world import World, build

_TABLES: Mapping[str, Any] = {
    "title": "a client's round",
    "data": {"name": "mnist5k", "size": 32},
    "model": {"name": "lenet", "dropout": 0.0},
}
_STEPS, _BATCH, _CLIENTS = 5, 32, 8
_NOISE, _CLIP, _RATE = 1.0, 1.0, 0.05
_SETTINGS: Mapping[str, Mapping[str, Any]] = {"dp-sgd": {"noise_multiplier": _NOISE, "clip": _CLIP}}
_MANY = 100
_TIMES = "a client's round, over that without it"


@experiment("defenses", minutes=3, page="benchmarks/defenses")
def defenses(budget: Budget) -> Cells:
    """Return a cell for each defense, and those beside Opacus and of secure aggregation."""
    passes = 30 if budget.full else 8
    return {
        **{name: partial(_defense_rows, name, passes) for name in registry.methods("defense", Defense)},
        "secure aggregation": partial(_secure, passes),
        "beside Opacus": partial(_opacus_rows, passes),
    }


def _defense_rows(name: str, passes: int) -> Iterator[Row]:
    try:
        world = _world([{"name": name, **_SETTINGS.get(name, {})}])
        world.check()
    except FedsimError as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return
    plain = _world([])
    defended, undefended = time_alternately([partial(_train, world), partial(_train, plain)], passes)
    yield ratio(_TIMES, name, defended, undefended)


def _opacus_rows(passes: int) -> Iterator[Row]:
    world = _world([{"name": "dp-sgd", **_SETTINGS["dp-sgd"]}])
    ours, theirs = time_alternately([partial(_train, world), _opacus(world)], passes)
    yield ratio("a client's round, over that of plain Opacus hooks", "dp-sgd", ours, theirs, "<= 1")


def _opacus(world: World) -> Callable[[int], None]:
    """Return the same training as somebody would write it with Opacus alone: a new engine each round, hooks mode."""
    from opacus import PrivacyEngine  # noqa: PLC0415 - takes seconds
    from torch.utils.data import DataLoader, TensorDataset  # noqa: PLC0415

    def train(number: int) -> None:
        share = world.data.shares[number % _CLIENTS]
        data = TensorDataset(world.data.dataset.train.inputs[share], world.data.dataset.train.labels[share])
        model = world.models.new()
        made = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=_RATE),
            data_loader=DataLoader(data, batch_size=_BATCH),
            noise_multiplier=_NOISE,
            max_grad_norm=_CLIP,
        )
        wrapped, optimizer, loader = cast("tuple[Any, Any, Any]", made)
        for inputs, labels in itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), _STEPS):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(inputs), labels).backward()
            optimizer.step()

    return train


def _secure(passes: int) -> Iterator[Row]:
    """Yield what ideal secure aggregation adds to rounds of a hundred clients."""
    federation = {"clients": _MANY, "rounds": passes, "batch_size": _BATCH}
    tables = {"secure_aggregation": {"mode": "ideal"}, "threat": {"view": "sum"}}
    plain = _round_seconds(_scenario([], federation=federation))
    secure = _round_seconds(_scenario([], federation=federation, **tables))
    yield ratio(_TIMES, f"ideal secure aggregation, a round of {_MANY} clients", secure, plain, "< 1.2")


def _round_seconds(scenario: Scenario) -> list[float]:
    times: list[float] = []
    runner.train(build(scenario), lambda _record: times.append(time.process_time()))
    return [after - before for before, after in itertools.pairwise(times)][SETTLING:]


def _train(world: World, number: int) -> None:
    local_training(world, world.models.first_weights, 1 + number // _CLIENTS, number % _CLIENTS)


def _world(defenses: list[dict[str, Any]]) -> World:
    return build(_scenario(defenses))


def _scenario(defenses: list[dict[str, Any]], **tables: Any) -> Scenario:
    federation = {
        "algorithm": "fedavg",
        "clients": _CLIENTS,
        "local_steps": _STEPS,
        "batch_size": _BATCH,
        "sampling": "poisson" if any(defense["name"] == "dp-sgd" for defense in defenses) else "shuffle",
        "optimizer": {"name": "sgd", "learning_rate": _RATE},
        **tables.pop("federation", {}),
    }
    return parse({**_TABLES, "federation": federation, "defenses": defenses, **tables}, "benchmark")
