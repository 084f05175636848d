"""Training of arms; arms that differ only in their questions share a training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fedsim.federation import engines
from fedsim.federation.journal import ServerLog
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario.world import World
from fedsim.threat.replay import Replay, replay


def train(world: World, on_round: Callable[[RoundRecord], None]) -> ServerLog:
    """Check that the engine supports the federation of an arm, run it, and return the server's journal."""
    engines.check(world)
    return federate(world, on_round)


def federate(
    world: World, on_round: Callable[[RoundRecord], None], check_cancelled: Callable[[], None] = lambda: None
) -> ServerLog:
    """Run the federation of a checked arm, and return the server's journal."""
    journal = ServerLog(on_round, check_cancelled=check_cancelled)
    engines.run(world, journal)
    return journal


class Trained(NamedTuple):
    """The server's journal, the replays of clients, and the seconds of training and replays."""

    journal: ServerLog
    replays: list[Replay]
    seconds: float


@dataclass
class Trainings:
    """Cache of a run's latest training, for the next arm."""

    _latest: tuple[Scenario, bool, Trained] | None = None

    def of(
        self,
        world: World,
        on_round: Callable[[RoundRecord], None],
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Trained:
        """Train the federation of a checked arm, or return the previous arm's training if it is the same.

        Args:
            world: world of the arm.
            on_round: called with every round; for a reused training without tokens, because their rate was reported
                before.
            check_cancelled: called while an engine waits; raises KeyboardInterrupt after a stop request.
        """
        scenario = world.scenario.model_copy(update={"questions": {}})  # questions run after the training
        if self._latest is not None and self._latest[:2] == (scenario, world.watches_models):
            *_, trained = self._latest
            for record in trained.journal.rounds:
                on_round(record.model_copy(update={"tokens": None}))
            return trained
        self._latest = None  # a journal holds models: free the old journal first
        begin = time.perf_counter()
        journal = federate(world, on_round, check_cancelled)
        replays = [replay(world, entry) for entry in journal.entries]
        trained = Trained(journal, replays, time.perf_counter() - begin)
        self._latest = (scenario, world.watches_models, trained)
        return trained
