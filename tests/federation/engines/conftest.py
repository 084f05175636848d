"""Engines that every test starts in the same way, and that no test leaves behind."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedsim.scenario import Scenario
from tests.experiment.running import Build


@pytest.fixture(scope="session")
def running() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engines_running", Path(__file__).with_name("running.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path: Path, running: ModuleType) -> Iterator[Callable[..., Any]]:
    """Start an engine on a scenario; what still runs at the end of the test is killed by its id."""
    engines: list[Any] = []

    def begin(name: str, scenario: Scenario, **settings: Any) -> Any:
        engines.append(running.Engine.start(tmp_path, name, scenario, settings))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.process.kill()
        engine.process.wait()
        engine.process.stdout.close()
        for left in engine.descendants():
            os.kill(left, signal.SIGKILL)


@pytest.fixture
def small(scenario: Build) -> Scenario:
    return scenario(
        federation={"clients": 4, "rounds": 3, "batch_size": 4, "algorithm": "fedavg", "local_steps": 3},
        threat={"rounds": [1, 3], "victims": 2},
    )
