"""An arm of a run: train the federation, then run all questions on its updates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from fedsim.core.types import Update, WireEntry
from fedsim.data.partition import describe_partition
from fedsim.experiment.guaranteeing import guarantees
from fedsim.experiment.hashes import model_hash
from fedsim.experiment.progress import RunInProgress
from fedsim.federation import engines
from fedsim.federation.journal import ServerLog
from fedsim.questions.attacks.question import place_of
from fedsim.questions.base import Evidence, answers, describe
from fedsim.record import ArmRecord, ClientCost, RoundRecord, SavedUpdate
from fedsim.scenario import Scenario
from fedsim.scenario.world import World
from fedsim.threat.replay import Replay


def check(world: World) -> None:
    """Check an arm before training.

    Raises:
        FedsimError: the arm cannot run; the message gives the reason and the fix.
    """
    world.check()
    engines.check(world)
    for question in world.questions:
        question.check(world)


def run_arm(progress: RunInProgress, world: World, number: int, name: str, values: dict[str, Any]) -> None:
    """Train the federation of a checked arm, run every question, and store each finding immediately."""
    scenario = world.scenario

    def on_round(record: RoundRecord) -> None:
        progress.watcher.round(record)
        progress.check_cancelled()

    progress.ask(describe(world))
    journal, replays, seconds = progress.trainings.of(world, on_round, progress.check_cancelled)
    begin = time.perf_counter() - seconds  # a shared training counts in every arm
    progress.folder.write_record(
        progress.record
    )  # first, before other files: its manifest entry marks the folder as fedsim's
    progress.folder.write_weights(number, journal.weights)
    updates = _save_updates(progress, number, journal.entries, replays) if scenario.threat.keep_updates else ()
    progress.begin(_train(world, journal, replays, name, values, updates))
    evidence = Evidence(world, journal, replays, progress.record.arms[-1].guarantees)
    work = progress.work(f"arm-{number}")
    for question in world.questions:
        for finding in answers(question, evidence, work):
            progress.watcher.report_finding(finding)
            progress.add(finding, work, time.perf_counter() - begin)
    progress.end(time.perf_counter() - begin)


def _train(
    world: World,
    journal: ServerLog,
    replays: Sequence[Replay],
    name: str,
    values: dict[str, Any],
    updates: tuple[SavedUpdate, ...],
) -> ArmRecord:
    """Return the record of a trained arm without findings."""
    scenario, dataset = world.scenario, world.data.dataset
    return ArmRecord(
        name=name,
        values=values,
        parameters=sum(p.numel() for p in world.models.workspace.model.parameters()),
        dropout=tuple(site.rate for site in world.models.sites),
        model_hash=model_hash(journal.weights),
        attacked_model=_state_of_model(scenario),
        partition=describe_partition(
            world.data.shares,
            dataset.train.labels,
            scheme=scenario.partition.scheme,
            class_names=dataset.class_names,
        ),
        rounds=tuple(journal.rounds),
        replay_matches=all(replay.matches for replay in replays),
        updates=updates,
        guarantees=guarantees(world, journal.rounds),
        complete=False,
        client_cost=_client_cost(replays),
    )


def _client_cost(replays: Sequence[Replay]) -> ClientCost | None:
    costs = [cost for replay in replays for cost in replay.costs]
    if not costs:
        return None
    return ClientCost(
        processor_seconds=median(cost.processor_seconds for cost in costs),
        peak_memory=max((cost.peak_memory for cost in costs if cost.peak_memory is not None), default=None),
        n=len(costs),
    )


def _save_updates(
    progress: RunInProgress, arm: int, entries: Sequence[WireEntry], replays: Sequence[Replay]
) -> tuple[SavedUpdate, ...]:
    """Store the attacked updates of an arm, and return their locations."""
    if not entries:
        return ()
    arrays: dict[str, np.ndarray] = {}
    for entry, replay in zip(entries, replays, strict=True):
        place = place_of(entry)
        arrays.update(_name_arrays(f"{place}/wire", entry.update))
        if not replay.raw_is_wire:
            arrays.update(_name_arrays(f"{place}/raw", replay.truth.raw))
    file = progress.folder.write_updates(arm, arrays)
    return tuple(
        SavedUpdate(round=entry.round, client=entry.client, file=file, raw_is_wire=replay.raw_is_wire)
        for entry, replay in zip(entries, replays, strict=True)
    )


def _name_arrays(place: str, update: Update) -> dict[str, np.ndarray]:
    return {f"{place}/{name}": t.detach().numpy() for name, t in {**update.tensors, **update.buffers}.items()}


def _rounds(scenario: Scenario) -> str:
    rounds = scenario.federation.rounds
    return "1 round of training" if rounds == 1 else f"{rounds} rounds of training"


def _state_of_model(scenario: Scenario) -> str:
    start = f"weights of {scenario.model.checkpoint.name}" if scenario.model.checkpoint else "untrained"
    if scenario.crafting_attack is not None:
        start = f"{start}, changed by {scenario.crafting_attack.report_name}"
    if scenario.unlearning is not None:
        return f"{start}, asked to forget after {_rounds(scenario)}"
    earlier = [round_ - 1 for round_ in scenario.threat.rounds]
    if not any(earlier):
        return start
    return f"{start}, then after {', '.join(map(str, earlier))} rounds of training"
