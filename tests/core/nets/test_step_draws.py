"""Draws are shown inside of a step, one inside of another, and nowhere else."""

import threading

import pytest
import torch

from fedsim.core.nets.step_draws import Showing, shown


def test_draws_are_there_inside_and_gone_behind_also_after_an_error() -> None:
    outer, inner = {"a.partners": torch.ones(1)}, {"b.partners": torch.zeros(1)}
    assert not shown()
    with Showing(outer):
        assert shown() is outer
        with Showing(inner):
            assert shown() is inner
        assert shown() is outer
    assert not shown()
    with pytest.raises(ValueError, match="own"), Showing(outer):
        raise ValueError("own")
    assert not shown()


def test_another_thread_sees_nothing() -> None:
    seen: list[int] = []
    with Showing({"a.partners": torch.ones(1)}):
        thread = threading.Thread(target=lambda: seen.append(len(shown())))
        thread.start()
        thread.join()
    assert seen == [0]
