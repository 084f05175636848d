"""What several tests of the federation do: train, keep a record, and take the server's step by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from fedsim.core.hooks import ServerRound
from fedsim.core.types import Memory, Observation, Tensors, Truth, Update, WireEntry
from fedsim.experiment import runner
from fedsim.federation.client import local_training
from fedsim.federation.journal import ServerLog
from fedsim.record import RoundRecord, RunRecord
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario, parse
from fedsim.scenario import world as worlds
from fedsim.scenario.example import SMALL, with_tables
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim


def scenario(**tables: Any) -> Scenario:
    """Build a small scenario on real digits; a table among the arguments replaces one that names another method."""
    return parse(with_tables({"title": "test", **SMALL}, tables), "test")


def watched(
    *,
    client: int = 0,
    knows: tuple[str, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics"),
    **tables: Any,
) -> tuple[Observation, Truth, worlds.World]:
    """Run one client's round of a small scenario, and observe it."""
    world = worlds.build(scenario(**tables))
    update, truth = local_training(world, world.models.first_weights, 1, client)
    entry = WireEntry(1, client, world.models.first_weights, update)
    return observe(Victim(world, entry, truth), knows), truth, world


def run(scenario: Scenario) -> ServerLog:
    return runner.train(worlds.build(scenario), lambda _record: None)


def a_round(size: int = 1) -> ServerRound:
    """A round as an aggregation rule sees it, with the same randomness each time."""
    return ServerRound(1, torch.Generator().manual_seed(0), 10.0, size)


class Silent:
    """A watcher that says nothing."""

    def __getattr__(self, _name: str) -> Callable[..., Any]:
        return lambda *_: lambda *_: None


def recorded(scenario: Scenario, path: Path, **more: Any) -> RunRecord:
    folder = RunFolder(path)
    folder.create(overwrite=False)
    return runner.run(scenario, folder, Silent(), command="test", earlier=None, **more)


def who_counted(record: RoundRecord) -> list[int]:
    lost = {int(failure.subject.removeprefix("client ")) for failure in record.failures}
    return [client for client in record.cohort if client not in lost]


def stepped(weights: Tensors, updates: Sequence[Update]) -> Tensors:
    """Return the weights after the mean of the updates, each counted by its examples, in the server's order of sums."""
    total = sum(update.examples for update in updates)
    new = dict(weights)
    for name in updates[0].tensors:
        summed = updates[0].tensors[name] * updates[0].examples
        for update in updates[1:]:
            summed.add_(update.tensors[name], alpha=update.examples)
        new[name] = weights[name] - summed / total
    return new


def by_hand(scenario: Scenario, rounds: Sequence[RoundRecord]) -> Tensors:
    """A bare loop that keeps a memory for each client: a copy that becomes the memory if the round counts."""
    world = worlds.build(scenario)
    weights = dict(world.models.first_weights)
    memories: dict[int, Memory] = {}
    for record in rounds:
        updates = [
            local_training(world, weights, record.round, client, memories.setdefault(client, {}))[0]
            for client in who_counted(record)
        ]
        weights = stepped(weights, updates) if updates else weights
    return weights
