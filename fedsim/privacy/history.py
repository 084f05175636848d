"""A client's spent privacy budget: noise, sampling rate and steps of every trained round, in Flower's `Context.state`.

A round costs the same whether or not the server counts the update, since the update may have left the client. An
accountant that is reset every round always reports the cost of a single round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from flwr.app import ConfigRecord, RecordDict

from fedsim.core.types import Mechanism
from fedsim.privacy.accounting import Spent, compose_rounds

_PREFIX = "privacy / "


def history_key(name: str) -> str:
    """Return the key of a mechanism's history in a client's state."""
    return f"{_PREFIX}{name}"


def spend(state: RecordDict, mechanisms: Mapping[str, Mechanism]) -> None:
    """Add a trained round of each mechanism to a client's state, by name."""
    for name, mechanism in mechanisms.items():
        rounds = (*spent(state, name), compose_rounds(mechanism, 1))
        state[history_key(name)] = ConfigRecord(
            {
                "sigma": [part.noise_multiplier for part in rounds],
                "q": [part.sampling_rate for part in rounds],
                "steps": [part.steps for part in rounds],
            }
        )


def spent(state: RecordDict, name: str) -> tuple[Spent, ...]:
    """Return the spent steps of a client's mechanism so far, an entry per trained round."""
    key = history_key(name)
    if key not in state:
        return ()
    record = state.config_records[key]
    sigma, q, steps = cast("list[float]", record["sigma"]), cast("list[float]", record["q"]), record["steps"]
    return tuple(Spent(*part) for part in zip(sigma, q, cast("list[int]", steps), strict=True))
