"""Cost of a piece of work: memory that was given back before it does not count, memory during it does."""

import time
from pathlib import Path

import numpy as np
import pytest

from fedsim.metrics import cost
from fedsim.metrics.cost import measure_cost, measure_memory

SIZE = 200 * 2**20
SLACK = SIZE // 4


def held() -> int:
    return int(np.ones(SIZE // 8).sum())


def busy() -> None:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass


def test_memory_counts_while_the_work_is_done_and_is_forgotten_afterwards() -> None:
    if not cost._STATUS.exists():
        pytest.skip("the system does not say what a process holds")
    _, before = measure_cost(lambda: None)
    result, during = measure_cost(held)
    _, after = measure_cost(lambda: None)
    assert result == SIZE // 8
    assert before.peak_memory is not None
    assert during.peak_memory is not None
    assert after.peak_memory is not None
    assert during.peak_memory - before.peak_memory > SIZE - SLACK
    assert during.peak_memory - after.peak_memory > SIZE - SLACK


def test_processor_time_counts_work_and_no_sleep() -> None:
    _, worked = measure_cost(busy)
    assert worked.processor_seconds >= 0.05
    begin = time.process_time()
    _, slept = measure_cost(lambda: time.sleep(0.2))
    assert slept.processor_seconds <= time.process_time() - begin


def test_where_the_system_does_not_say_there_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(cost, "_FORGET", tmp_path / "absent" / "absent")
    assert measure_cost(lambda: 1)[1].peak_memory is None


def test_memory_is_told_in_bytes_where_the_system_counts_in_kibibytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "status").write_text("Name:\tfedsim\nVmHWM:\t    34 kB\nVmRSS:\t    12 kB\n")
    monkeypatch.setattr(cost, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(cost, "_FORGET", tmp_path / "absent" / "absent")
    assert measure_memory() == 12 * 1024
    assert measure_cost(lambda: 1)[1].peak_memory == 34 * 1024
