"""Events count, in integers from 0, and are what they were made as for ever."""

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Event, Trace


def test_an_event_is_a_mapping_that_does_not_change() -> None:
    event = Event({"kept.layers.0": 3}, layers=2)
    assert dict(event) == {"kept.layers.0": 3, "layers": 2}
    assert (event["layers"], len(event), "cache" in event) == (2, 2, False)
    assert event == Event(layers=2, **{"kept.layers.0": 3})
    assert hash(event) == hash(pickle.loads(pickle.dumps(event)))
    assert repr(event) == "Event(kept.layers.0=3, layers=2)"
    with pytest.raises(KeyError):
        event["trials"]
    with pytest.raises(FrozenInstanceError):
        event._entries = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        event["layers"] = 5  # type: ignore[index]


@pytest.mark.parametrize("count", [0.25, True, -1, torch.tensor(1), "1", None])
def test_what_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(FedsimError, match="an event counts 'seconds' as .*, expected an int from 0"):
        Event(seconds=count)


@pytest.mark.parametrize("name", ["", "Layers", "3d", "two words", "ä"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(FedsimError, match="an event has no name"):
        Event({name: 1})


def test_a_series_has_a_count_for_every_step() -> None:
    trace = Trace((1, 2), (Event(layers=3), Event(layers=1, trials=2)))
    assert trace.series() == {"layers": (3, 1), "trials": (0, 2)}
