"""Tensors that a known defense makes unreliable are set aside, unless nothing else would be left."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedsim.core.types import MethodDescription, Observation
from fedsim.core.types.effects import UnreliableTensors
from fedsim.core.unreliable_tensors import without_unreliable_tensors


def knowing(observation: Observation, *unreliable: str) -> Observation:
    return replace(observation, known_methods=(MethodDescription("own", (UnreliableTensors(unreliable),)),))


def test_what_deserves_no_trust_counts_as_hidden(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    first, *rest = observation.update.tensors
    found = without_unreliable_tensors(knowing(observation, first, "no such tensor"))
    assert list(found.update.tensors) == rest
    assert found.hidden == observation.hidden | {first}
    assert found.unreliable_tensors[first] is observation.update.tensors[first]


def test_where_nothing_or_everything_is_named_the_observation_is_the_same(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    assert without_unreliable_tensors(observation) is observation
    for names in ((), ("no such tensor",), tuple(observation.update.tensors)):
        own = knowing(observation, *names)
        assert without_unreliable_tensors(own) is own
