"""The apps on Ray: the same bits as on the local engine, the same errors, nothing left behind."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.serverapp import ServerApp

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.experiment.runner import model_hash, train
from fedsim.federation import engines
from fedsim.federation.engines import ray
from fedsim.federation.journal import ServerLog
from fedsim.scenario import Scenario, load
from fedsim.scenario import world as worlds
from tests.experiment.running import Build

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
        ({"cpus": 4096}, r"a client needs 4096 CPUs, but no machine of the Ray cluster has over"),
    ],
)
def test_errors_are_those_of_the_local_engine(
    start: Callable[..., Any],
    scenario: Build,
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


CLUSTER = """
ip link set lo up
ray start --head --num-cpus 1 --node-ip-address 127.0.0.1 --temp-dir "$1" --include-dashboard false
ray start --address 127.0.0.1:6379 --num-cpus 1 --node-ip-address 127.0.0.1
fedsim run scenario.toml --set federation.engine=ray --set federation.address=127.0.0.1:6379 --out cluster
"""
FOUR = """
title = "four clients"
data = { name = "digits" }
model = { name = "mlp", width = 24, depth = 2, dropout = 0.25 }
federation = { algorithm = "fedavg", clients = 4, rounds = 3, local_steps = 3, batch_size = 4 }
"""
# Ray's nodes listen on every interface where there are several; here all that they see is a loopback of their own.
ALONE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.slow
@needs_ray
def test_a_cluster_of_two_nodes_gives_the_bits_of_the_local_engine(tmp_path: Path) -> None:
    if shutil.which("ip") is None or subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine has no network namespaces")
    (tmp_path / "scenario.toml").write_text(FOUR)
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # for a busy machine
    }
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # of a short name, for Ray's sockets
        command = [*ALONE, "sh", "-ec", CLUSTER, "sh", folder]
        done = subprocess.run(command, cwd=tmp_path, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Ray runtime started") == 2
    local = train(worlds.build(load(tmp_path / "scenario.toml")), lambda _record: None)
    assert f"Hash of the trained model: {model_hash(local.weights)}" in done.stdout


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, small: Scenario) -> None:
    built = worlds.build(small)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[flower-sim\]"):
        ray.serve(built, ServerApp(), 1)


def _at(scenario: Scenario, address: str) -> Scenario:
    federation = scenario.federation.model_copy(update={"engine": "ray", "address": address})
    return scenario.model_copy(update={"federation": federation})


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "cluster"])
def test_an_address_without_a_cluster_is_told_at_once(small: Scenario, address: str) -> None:
    with pytest.raises(FedsimError, match=f"no Ray cluster answers at '{address}'.*HOST:PORT"):
        engines.run(worlds.build(_at(small, address)), ServerLog(lambda _record: None))


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
