"""The apps on Ray: the same bits as on the local engine, the same errors, nothing left behind."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.federation.engines import ray
from fedsim.federation.journal import Journal
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

BROKEN = """
import torch
from torch import nn
class Broken(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.first = self.linear.weight.detach().clone()
    def forward(self, x):
        if not torch.equal(self.linear.weight, self.first):  # a model is tried with its first weights
            raise RuntimeError("my layer is broken")
        return self.linear(x.flatten(1))
def make(spec):
    return Broken(spec.classes)
"""


@pytest.mark.slow
@needs_ray
def test_ray_gives_the_bits_of_the_local_engine_and_leaves_nothing(
    start: Callable[..., Any], small: Scenario, running: ModuleType
) -> None:
    error, journal = start("ray", small).end(timeout=180)
    assert error is None
    running.assert_same(journal, small)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"every client of the round failed, the first with: RuntimeError: my layer is broken \(models_on_ray.py"),
        ({"cpus": 4096}, r"a client takes 4096 CPUs, but no machine of the Ray cluster has over"),
    ],
)
def test_errors_are_those_of_the_local_engine(
    start: Callable[..., Any],
    scenario: Callable[..., Scenario],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "models_on_ray.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = scenario(
        model={"name": "models_on_ray:make"}, federation={"clients": 4, "algorithm": "fedavg", "local_steps": 2}
    )
    engine = start("ray", broken, **settings)
    error, journal = engine.end(timeout=180)
    assert journal.rounds == []
    with pytest.raises(FedsimError, match=message):
        raise FedsimError(error)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, small: Scenario) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"):
        ray.run(worlds.build(small), Journal(lambda _record: None))


def _at(scenario: Scenario, address: str) -> Scenario:
    federation = scenario.federation.model_copy(update={"engine": "ray", "address": address})
    return scenario.model_copy(update={"federation": federation})


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "cluster"])
def test_an_address_without_a_cluster_is_told_at_once(small: Scenario, address: str) -> None:
    with pytest.raises(FedsimError, match=f"no Ray cluster answers at '{address}'.*HOST:PORT"):
        ray.run(worlds.build(_at(small, address)), Journal(lambda _record: None))


@pytest.mark.parametrize(
    ("device", "whole", "cpus", "expected"),
    [
        ("cpu", {"CPU": 4.0, "GPU": 1.0}, 1.0, 0.0),
        ("cuda", {"CPU": 4.0, "GPU": 1.0}, 1.0, 0.25),
        ("cuda", {"CPU": 3.0, "GPU": 1.0}, 1.0, 0.3333),
        ("cuda", {"CPU": 2.0, "GPU": 8.0}, 1.0, 1.0),
    ],
)
def test_a_client_takes_the_share_of_a_gpu_that_lets_all_cpus_work(
    device: str, whole: dict[str, float], cpus: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: whole))
    assert ray._gpus(device, cpus) == expected


def test_a_cluster_without_a_gpu_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0}))
    with pytest.raises(FedsimError, match="no machine of the Ray cluster has a GPU"):
        ray._gpus("cuda", 1.0)
