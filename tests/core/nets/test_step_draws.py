"""Draws are shown inside of a step, one inside of another, and nowhere else."""

import threading

import pytest
import torch

from fedsim.core.nets.step_draws import Showing, get_current_draws


def test_draws_are_there_inside_and_gone_behind_also_after_an_error() -> None:
    outer, inner = {"a.partners": torch.ones(1)}, {"b.partners": torch.zeros(1)}
    assert not get_current_draws()
    with Showing(outer):
        assert get_current_draws() is outer
        with Showing(inner):
            assert get_current_draws() is inner
        assert get_current_draws() is outer
    assert not get_current_draws()
    with pytest.raises(ValueError, match="own"), Showing(outer):
        raise ValueError("own")
    assert not get_current_draws()


def test_another_thread_sees_nothing() -> None:
    seen: list[int] = []
    with Showing({"a.partners": torch.ones(1)}):
        thread = threading.Thread(target=lambda: seen.append(len(get_current_draws())))
        thread.start()
        thread.join()
    assert seen == [0]
