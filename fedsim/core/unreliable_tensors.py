"""Preprocessing of an observation with known defenses: unreliable tensors are hidden."""

from __future__ import annotations

from dataclasses import replace

from fedsim.core.types import Observation
from fedsim.core.types.effects import UnreliableTensors


def without_unreliable_tensors(observation: Observation) -> Observation:
    """Return the observation as passed to all attacks; the same object if no known defense requires a change.

    Tensors that a defense makes unreliable are set aside and count as hidden, unless no tensor would remain.
    """
    tensors = observation.update.tensors
    named = {name for effect in observation.effects(UnreliableTensors) for name in effect.names} & tensors.keys()
    if not named or named == tensors.keys():
        return observation
    return replace(
        observation,
        update=replace(observation.update, tensors={n: t for n, t in tensors.items() if n not in named}),
        hidden=observation.hidden | named,
        unreliable_tensors={name: tensors[name] for name in named},
    )
