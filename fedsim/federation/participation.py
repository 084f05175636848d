"""Who takes part in a round, and what happens to clients there: a declared process, seeded, the same on every engine.

Every decision is a function of (seed, round, client). So the server and the client, which may live in different
processes, agree on it without a message, and no engine's timing changes a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedsim.core import seeding
from fedsim.record import Cause
from fedsim.scenario import Participation, Scenario


@dataclass(frozen=True)
class Loss:
    """Why a client's update does not count in a round.

    Attributes:
        is_absent: whether the client is gone before it says anything in that round.
    """

    cause: Cause
    why: str
    is_absent: bool = False


def cohort(scenario: Scenario, round_: int) -> tuple[int, ...]:
    """Return the clients that the server asks in a round, by number; it may be empty.

    A fixed cohort is drawn without replacement from the clients that are available; under Poisson sampling every
    available client is asked independently.
    """
    settings, clients = scenario.participation, scenario.federation.clients
    available = _available(settings, scenario.seed, clients, round_)
    generator = seeding.generator(scenario.seed, "cohort", round_)
    if settings.sampling == "poisson":
        joins = torch.rand(clients, generator=generator, dtype=torch.float64) < scenario.sampling_rate
        return tuple((joins & available).nonzero().flatten().tolist())
    order = torch.randperm(clients, generator=generator)
    return tuple(sorted(order[available[order]][: scenario.cohort_size].tolist()))


def fate(scenario: Scenario, round_: int, client: int, steps: int) -> Loss | None:
    """Return why the round of an asked client does not count, or None when nothing happens to it.

    Args:
        scenario: says how often what happens.
        round_: from 1.
        client: its number, from 0.
        steps: local steps that the client takes in a round.
    """
    settings = scenario.participation
    if client in settings.crashing:
        return Loss("crash", "crashed")
    if not settings.is_eventful:
        return None
    chance = torch.rand((), generator=seeding.generator(scenario.seed, "fate", round_, client), dtype=torch.float64)
    for probability, loss in _events(settings):
        if chance < probability:
            return loss
        chance = chance - probability
    return _lateness(scenario, round_, client, steps)


def fates(
    scenario: Scenario, round_: int, clients: Sequence[int], steps: Callable[[int], int]
) -> dict[int, Loss | None]:
    """Return `fate` of several clients, by number; `steps` says how many local steps one takes in a round."""
    settings = scenario.participation
    if not settings.is_eventful and not settings.crashing:
        return dict.fromkeys(clients)
    return {client: fate(scenario, round_, client, steps(client)) for client in clients}


def refused(why: str) -> Loss:
    """Return that a client does not train on what the server sent."""
    return Loss("refused", f"refused: {why}", is_absent=True)


def duration(scenario: Scenario, round_: int, client: int, steps: int) -> float:
    """Return the simulated seconds of a client's round: slow clients are slow in every round."""
    settings = scenario.participation
    slow = torch.rand((), generator=seeding.generator(scenario.seed, "slow", client), dtype=torch.float64)
    factor = settings.slow_factor if slow < settings.slow else 1.0
    noise = torch.randn((), generator=seeding.generator(scenario.seed, "pace", round_, client), dtype=torch.float64)
    return steps * settings.step_seconds * factor * math.exp(settings.jitter * noise.item())


def _available(settings: Participation, seed: int, clients: int, round_: int) -> torch.Tensor:
    if settings.availability == 1.0:
        return torch.ones(clients, dtype=torch.bool)
    generator = seeding.generator(seed, "availability", round_)
    return torch.rand(clients, generator=generator, dtype=torch.float64) < settings.availability


def _events(settings: Participation) -> tuple[tuple[float, Loss], ...]:
    return (
        (settings.drop_before, Loss("dropout", "dropped out before training", is_absent=True)),
        (settings.drop_during, Loss("dropout", "dropped out during training")),
        (settings.drop_after, Loss("dropout", "dropped out after training")),
        (settings.crash, Loss("crash", "crashed")),
    )


def _lateness(scenario: Scenario, round_: int, client: int, steps: int) -> Loss | None:
    deadline = scenario.participation.deadline
    if deadline is None:
        return None
    seconds = duration(scenario, round_, client, steps)
    if seconds <= deadline:
        return None
    return Loss("late", f"late: {seconds:.1f} simulated seconds, the deadline is {deadline:g}")
