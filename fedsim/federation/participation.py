"""Client sampling and simulated client failures: a seeded process, equal on every engine.

Every decision is a function of (seed, round, client). Server and client, possibly in different processes, thus agree
without a message, and an engine's timing does not change results.
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
class ClientFailure:
    """Simulated failure of a client in a round.

    Attributes:
        cause: kind of the failure.
        why: reason as text.
        is_absent: whether the client is gone before its first message of the round.
    """

    cause: Cause
    why: str
    is_absent: bool = False


def cohort(scenario: Scenario, round_: int) -> tuple[int, ...]:
    """Return the sampled clients of a round, by number; possibly empty.

    A fixed cohort is sampled without replacement from the available clients; under Poisson sampling every available
    client is sampled independently.
    """
    settings, clients = scenario.participation, scenario.federation.clients
    available = _available(settings, scenario.seed, clients, round_)
    generator = seeding.generator(scenario.seed, "cohort", round_)
    if settings.sampling == "poisson":
        joins = torch.rand(clients, generator=generator, dtype=torch.float64) < scenario.sampling_rate
        return tuple((joins & available).nonzero().flatten().tolist())
    order = torch.randperm(clients, generator=generator)
    return tuple(sorted(order[available[order]][: scenario.cohort_size].tolist()))


def client_failure(scenario: Scenario, round_: int, client: int, steps: int) -> ClientFailure | None:
    """Return the simulated failure of a sampled client in a round, or None.

    Args:
        scenario: source of the failure probabilities.
        round_: round number from 1.
        client: client number from 0.
        steps: the client's local steps per round.
    """
    settings = scenario.participation
    if client in settings.always_crash:
        return ClientFailure("crash", "crashed")
    if not settings.is_eventful:
        return None
    chance = torch.rand((), generator=seeding.generator(scenario.seed, "fate", round_, client), dtype=torch.float64)
    for probability, loss in _events(settings):
        if chance < probability:
            return loss
        chance = chance - probability
    return _lateness(scenario, round_, client, steps)


def client_failures(
    scenario: Scenario, round_: int, clients: Sequence[int], steps: Callable[[int], int]
) -> dict[int, ClientFailure | None]:
    """Return `client_failure` of several clients, by number; `steps` returns a client's local steps per round."""
    settings = scenario.participation
    if not settings.is_eventful and not settings.always_crash:
        return dict.fromkeys(clients)
    return {client: client_failure(scenario, round_, client, steps(client)) for client in clients}


def refusal_failure(why: str) -> ClientFailure:
    """Return the failure of a client that rejected the server's message."""
    return ClientFailure("refused", f"refused: {why}", is_absent=True)


def duration(scenario: Scenario, round_: int, client: int, steps: int) -> float:
    """Return the simulated seconds of a client's round; slow clients are slow in every round."""
    settings = scenario.participation
    slow = torch.rand((), generator=seeding.generator(scenario.seed, "slow", client), dtype=torch.float64)
    factor = settings.slow_factor if slow < settings.slow_fraction else 1.0
    noise = torch.randn((), generator=seeding.generator(scenario.seed, "pace", round_, client), dtype=torch.float64)
    return steps * settings.step_seconds * factor * math.exp(settings.jitter * noise.item())


def _available(settings: Participation, seed: int, clients: int, round_: int) -> torch.Tensor:
    if settings.availability == 1.0:
        return torch.ones(clients, dtype=torch.bool)
    generator = seeding.generator(seed, "availability", round_)
    return torch.rand(clients, generator=generator, dtype=torch.float64) < settings.availability


def _events(settings: Participation) -> tuple[tuple[float, ClientFailure], ...]:
    return (
        (settings.drop_before, ClientFailure("dropout", "dropped out before training", is_absent=True)),
        (settings.drop_during, ClientFailure("dropout", "dropped out during training")),
        (settings.drop_after, ClientFailure("dropout", "dropped out after training")),
        (settings.crash, ClientFailure("crash", "crashed")),
    )


def _lateness(scenario: Scenario, round_: int, client: int, steps: int) -> ClientFailure | None:
    deadline = scenario.participation.deadline
    if deadline is None:
        return None
    seconds = duration(scenario, round_, client, steps)
    if seconds <= deadline:
        return None
    return ClientFailure("late", f"late: {seconds:.1f} simulated seconds, the deadline is {deadline:g}")
