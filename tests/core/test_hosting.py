"""What a run changes in its process is undone behind it, also where several runs end in another order."""

import logging
import os
import threading
from collections.abc import Iterator

import pytest
import torch

from fedsim.core.hosting import SharedChange, Undo, host_run, one_thread
from fedsim.core.process import ENVIRONMENT


class Host:
    """Counts changes."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.change = SharedChange(self.make)

    def make(self) -> Undo:
        self.told.append("made")
        return lambda: self.told.append("undone")


def test_a_change_is_made_by_the_first_block_and_undone_by_the_last() -> None:
    host = Host()
    first, second = host.change.apply_change(), host.change.apply_change()
    first.__enter__()
    second.__enter__()
    assert host.told == ["made"]
    first.__exit__(None, None, None)
    assert host.told == ["made"]
    second.__exit__(None, None, None)
    assert host.told == ["made", "undone"]
    with pytest.raises(ValueError, match="inside"), host.change.apply_change():
        raise ValueError("inside")
    assert host.told == ["made", "undone"] * 2


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has set one variable of its own, and none of fedsim's."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


@pytest.mark.usefixtures("bare")
def test_a_run_has_its_environment_and_log_and_its_host_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("flwr")
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "level", logging.INFO)
    before = dict(os.environ)
    with host_run():
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
        assert "HF_HUB_OFFLINE" not in os.environ
        assert (log.level, log.propagate) == (logging.WARNING, False)
        os.environ["MINE"] = "set inside"
    assert os.environ.pop("MINE") == "set inside"
    assert dict(os.environ) == before
    assert (log.level, log.propagate) == (logging.INFO, True)


@pytest.fixture
def threads() -> Iterator[int]:
    """How many threads the host has given torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_torch_has_one_thread_inside_and_as_many_as_before_behind(threads: int) -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == threads


def test_runs_in_threads_that_end_in_another_order_give_the_threads_back(threads: int) -> None:
    begun, may_end, seen = threading.Event(), threading.Event(), list[int]()

    def other() -> None:
        with one_thread():
            begun.set()
            may_end.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert begun.wait(10)
    may_end.set()
    thread.join()
    assert seen == [threads]
    assert torch.get_num_threads() == threads
