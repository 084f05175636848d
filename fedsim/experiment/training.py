"""Trains the federations of arms; those that differ in nothing but what is asked afterwards share one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fedsim.federation import engines
from fedsim.federation.journal import Journal
from fedsim.record import RoundRecord
from fedsim.scenario.world import World, shared
from fedsim.threat.replay import Replay, replay


def train(world_json: str, on_round: Callable[[RoundRecord], None]) -> Journal:
    """Check that the engine can run the federation of one arm, run it, and return what the server saw."""
    engines.check(shared(world_json))
    return federate(world_json, on_round)


def federate(
    world_json: str, on_round: Callable[[RoundRecord], None], look_up: Callable[[], None] = lambda: None
) -> Journal:
    """Run the federation of an arm that was checked before, and return what the server saw."""
    journal = Journal(on_round, look_up=look_up)
    engines.run(world_json, journal)
    return journal


class Trained(NamedTuple):
    """What the server saw of a federation, what its clients did, and how long training and its repetition took."""

    journal: Journal
    replays: list[Replay]
    seconds: float


@dataclass
class Trainings:
    """The latest training of a run, at hand for the next arm."""

    _known: dict[str, Trained] = field(default_factory=dict)

    def of(
        self,
        world: World,
        world_json: str,
        on_round: Callable[[RoundRecord], None],
        look_up: Callable[[], None] = lambda: None,
    ) -> Trained:
        """Train the federation of an arm that is checked, or return the training of the arm before, if it is the same.

        Args:
            world: of the arm.
            world_json: the same as text, by which its apps find it.
            on_round: is called with every round; if it was trained before, without tokens, whose speed was told then.
            look_up: is called while an engine waits; raises KeyboardInterrupt where somebody asked to stop.
        """
        key = _as_trained(world)
        known = self._known.get(key)
        if known is not None:
            for record in known.journal.rounds:
                on_round(record.model_copy(update={"tokens": None}))
            return known
        self._known.clear()  # a journal holds models: one at a time
        begin = time.perf_counter()
        journal = federate(world_json, on_round, look_up)
        replays = [replay(world, entry) for entry in journal.entries]
        self._known[key] = Trained(journal, replays, time.perf_counter() - begin)
        return self._known[key]


def _as_trained(world: World) -> str:
    """Return a scenario without what is asked after the training, as text."""
    return f"{world.watches_models} {world.scenario.model_copy(update={'questions': {}}).model_dump_json()}"
