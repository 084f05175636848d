"""A silent watcher accepts every moment of a run, and returns a callback for an attack's steps."""

import inspect

import pytest

from fedsim.experiment.watching import SilentWatcher, Watcher

MOMENTS = [name for name, _ in inspect.getmembers(Watcher, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_silent_watcher_has_every_moment(moment: str) -> None:
    on_step = getattr(SilentWatcher(), moment)("a", 1, 2)
    assert on_step(object()) is None
