"""Run a scenario: check every arm, then run all arms in order, and return the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedsim.core.errors import Diverged, FedsimError, MissingExtra, ScenarioError
from fedsim.core.hosting import one_thread
from fedsim.experiment.arm import check, run_arm
from fedsim.experiment.guaranteeing import guarantees
from fedsim.experiment.hashes import model_hash, scenario_hash
from fedsim.experiment.progress import RunInProgress
from fedsim.experiment.training import train
from fedsim.experiment.watching import Watcher
from fedsim.processes.methods import Start, start_in_process
from fedsim.record import RunRecord
from fedsim.record.environment import environment, now
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario, arms
from fedsim.scenario.installed import check_installed
from fedsim.scenario.world import World, build
from fedsim.threat.observe import describe

__all__ = ["Watcher", "guarantees", "model_hash", "run", "scenario_hash", "train"]


@one_thread()
def run(
    scenario: Scenario,
    folder: RunFolder,
    watcher: Watcher,
    *,
    command: str,
    earlier: RunRecord | None,
    should_stop: Callable[[], bool] = lambda: False,
    start: Start = start_in_process,
) -> RunRecord:
    """Run every arm of a scenario, and write record, arrays and weights to `folder`.

    Args:
        scenario: result of `fedsim.scenario.load`.
        folder: an empty run folder, or the folder of `earlier`.
        watcher: receives every round, attack and iteration.
        command: command line for the record.
        earlier: interrupted record of the same scenario; its complete arms are kept.
        should_stop: polled after every round and iteration; True ends the run with KeyboardInterrupt.
        start: starts attacks, in this process or in subprocesses.

    Raises:
        FedsimError: an error in any arm, raised before the first training, e.g. a missing data set or an inapplicable
            method; or an error during the run: a client function that always fails, a run folder of another scenario.
    """
    digest = scenario_hash(scenario)
    if earlier is not None and earlier.digest != digest:
        raise FedsimError(f"{folder.path} holds a run of another scenario or seed, which this scenario cannot resume.")
    done = tuple(arm for arm in earlier.arms if arm.complete) if earlier else ()
    names = {arm.name for arm in done}
    todo = [_Arm(_name(values), values, arm) for values, arm in arms(scenario)]
    try:
        sentences = _check(todo, names)
    except MissingExtra:
        check_installed(arm.scenario for arm in todo if arm.name not in names)
        raise
    watcher.threat_model(sentences)
    record = RunRecord(
        status="interrupted",
        plan=scenario.model_dump(mode="json"),
        digest=digest,
        threat_model=sentences,
        environment=environment(command),
        started=earlier.started if earlier else now(),
        arms=done,
    ).with_declarations(scenario.scoring.metric)
    arrays = _arrays_of(folder, [number for number, arm in enumerate(todo) if arm.name in names]) if earlier else {}
    progress = RunInProgress(folder, record, arrays, watcher, should_stop, start)
    diverged: Diverged | None = None
    for number, arm in enumerate(todo):
        if arm.name in names:
            continue
        watcher.arm(arm.name, number + 1, len(todo), arm.scenario.federation.rounds)
        try:
            with _prefix_errors(arm, total=len(todo)):
                run_arm(progress, _world(arm), number, arm.name, arm.values)
        except Diverged as error:
            progress.skip(arm.name, error)
            diverged = error
        except Exception as error:
            progress.fail(error)
            raise
    if diverged is not None and not progress.record.arms:
        raise diverged
    return progress.finish()


def _arrays_of(folder: RunFolder, arms: Iterable[int]) -> dict[str, np.ndarray]:
    """Return a run's arrays of the given arms."""
    kept = {f"arm-{number}" for number in arms}
    return {name: array for name, array in folder.read_arrays().items() if name.partition("/")[0] in kept}


@dataclass(frozen=True, eq=False)
class _Arm:
    """An arm to run.

    Attributes:
        name: name for reports.
        values: settings in which it differs from the other arms.
        scenario: resolved scenario.
    """

    name: str
    values: dict[str, Any]
    scenario: Scenario


@lru_cache(maxsize=2)
def _world(arm: _Arm) -> World:
    """Return the world of an arm. Worlds are large, so the cache holds two."""
    return build(arm.scenario)


def _check(todo: Sequence[_Arm], done: Set[str]) -> tuple[str, ...]:
    """Check every arm without a result, and describe the attacker.

    Returns:
        The first arm's threat model in sentences, and the differences of the first arm with another kind of server or
        with unlearning.

    Raises:
        FedsimError: an arm cannot run; with several arms the message names it.
    """
    sentences: tuple[str, ...] = ()
    servers: set[tuple[str, bool]] = set()
    for arm in todo:
        server = arm.scenario.threat.server, arm.scenario.unlearning is not None
        if arm.name in done and server in servers:
            continue
        with _prefix_errors(arm, total=len(todo)):
            world = _world(arm)
            if arm.name not in done:
                check(world)
        if server not in servers:
            new = [sentence for sentence in _describe(world) if sentence not in sentences]
            sentences += tuple(f"In arm '{arm.name}': {sentence}" if servers else sentence for sentence in new)
            servers.add(server)
    return sentences


def _describe(world: World) -> tuple[str, ...]:
    """Return the threat model in sentences, with those of the questions."""
    questions = world.questions
    sentences = [sentence for question in questions for sentence in question.describe_attacker()]
    return describe(world, sentences)


@contextmanager
def _prefix_errors(arm: _Arm, total: int) -> Iterator[None]:
    """Prefix error messages with the arm's name if there are several arms."""
    try:
        yield
    except MissingExtra:
        raise
    except FedsimError as error:
        if total == 1 or isinstance(error, Diverged):
            raise
        raise ScenarioError(f"arm '{arm.name}': {error}") from error


def _name(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{_short(key)} {value}" for key, value in values.items()) or "all"


def _short(key: str) -> str:
    """Return the last informative word of a dotted key: ``model`` for ``model.name``."""
    return key.removesuffix(".name").rpartition(".")[2]
