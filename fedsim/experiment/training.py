"""Trains the federations of arms; those that differ in nothing but what is asked afterwards share one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fedsim.federation import engines
from fedsim.federation.journal import Journal
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario.world import World
from fedsim.threat.replay import Replay, replay


def train(world: World, on_round: Callable[[RoundRecord], None]) -> Journal:
    """Check that the engine can run the federation of one arm, run it, and return what the server saw."""
    engines.check(world)
    return federate(world, on_round)


def federate(
    world: World, on_round: Callable[[RoundRecord], None], look_up: Callable[[], None] = lambda: None
) -> Journal:
    """Run the federation of an arm that was checked before, and return what the server saw."""
    journal = Journal(on_round, look_up=look_up)
    engines.run(world, journal)
    return journal


class Trained(NamedTuple):
    """What the server saw of a federation, what its clients did, and how long training and its repetition took."""

    journal: Journal
    replays: list[Replay]
    seconds: float


@dataclass
class Trainings:
    """The latest training of a run, at hand for the next arm."""

    _latest: tuple[Scenario, bool, Trained] | None = None

    def of(
        self,
        world: World,
        on_round: Callable[[RoundRecord], None],
        look_up: Callable[[], None] = lambda: None,
    ) -> Trained:
        """Train the federation of an arm that is checked, or return the training of the arm before, if it is the same.

        Args:
            world: of the arm.
            on_round: is called with every round; if it was trained before, without tokens, whose speed was told then.
            look_up: is called while an engine waits; raises KeyboardInterrupt where somebody asked to stop.
        """
        scenario = world.scenario.model_copy(update={"questions": {}})  # they are asked after the training
        if self._latest is not None and self._latest[:2] == (scenario, world.watches_models):
            *_, trained = self._latest
            for record in trained.journal.rounds:
                on_round(record.model_copy(update={"tokens": None}))
            return trained
        self._latest = None  # a journal holds models: one at a time
        begin = time.perf_counter()
        journal = federate(world, on_round, look_up)
        replays = [replay(world, entry) for entry in journal.entries]
        trained = Trained(journal, replays, time.perf_counter() - begin)
        self._latest = (scenario, world.watches_models, trained)
        return trained
