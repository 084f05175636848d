"""The apps on Ray: the same bits as on the local engine, the same errors, nothing left behind."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.engines import ray
from fedsim.errors import MissingExtra
from fedsim.journal import MemoryJournal
from fedsim.scenario import Scenario
from tests.engines.conftest import Start, assert_same

pytest.importorskip("ray")


def test_ray_gives_the_bits_of_the_local_engine_and_leaves_nothing(start: Start, small: Scenario) -> None:
    error, journal = start("ray", small).end(timeout=180)
    assert error is None
    assert_same(journal, small)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, small: Scenario) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"):
        ray.run(small.model_dump_json(), 4, MemoryJournal(lambda _record: None))
