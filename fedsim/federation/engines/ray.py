"""Flower's simulation engine: a pool of Ray actors trains the clients, locally or on an existing cluster."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.foreign.flower.in_process import telemetry
from fedsim.federation import apps
from fedsim.federation.engines.worker import WorkerApp
from fedsim.scenario.world import World

_CONNECT_TIMEOUT = 5.0
_GPU_PARTS = 10_000  # Ray's resolution of resources is 1/10,000
# Ray's variable; 0 restricts it to the loopback interface on every system.
_LISTENS_OUTSIDE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def serve(world: World, server: ServerApp, nodes: int, *, cpus: float = 1.0) -> None:
    """Run a ServerApp on Ray.

    Args:
        world: world of a scenario; `federation.address` is a running Ray cluster with fedsim on its machines; without
            an address a local Ray is started for the run.
        server: the ServerApp, run in another thread of this process.
        nodes: number of clients.
        cpus: CPUs per client, which limits the number of clients that train at a time.

    Raises:
        MissingExtra: Ray is not installed.
        FedsimError: Ray could not run the federation. Exceptions of the ServerApp are raised unchanged.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("Ray, which the engine 'ray' needs,", "pip install 'fedsim-privacy[flower-sim]'")
    address, text = world.scenario.federation.address, world.scenario.model_dump_json()
    raised: list[BaseException] = []
    catching = _catch(server, raised)
    with _quiet(), cluster(address, cpus):
        # Imported lazily: the import is slow (a second), and without Ray it would end the process.
        from flwr.simulation import run_simulation  # noqa: PLC0415

        gpus = _gpus(world.device.type, cpus)
        client = WorkerApp(lambda _: apps.build_world(text))  # Flower's simulation passes no run configuration
        backend: Any = {"client_resources": {"num_cpus": cpus, "num_gpus": gpus}}
        try:
            run_simulation(catching, client, nodes, backend_config=backend)
        except Exception as error:
            if not raised:
                raise FedsimError(f"Ray could not run the federation: {_first_cause(error)}") from error
    if raised:
        raise raised[0]


@contextmanager
def cluster(address: str | None, cpus: float) -> Iterator[None]:
    """Connect to a Ray cluster, or start a local Ray, which Flower then uses; disconnect or stop it afterwards.

    Raises:
        FedsimError: no cluster answers at the address, Ray does not start, or no machine has enough CPUs.
    """
    if address is None:
        os.environ.setdefault(_LISTENS_OUTSIDE, "0")
    else:
        _check_address(address)
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        raise FedsimError("this process uses Ray already. Call ray.shutdown() first, or choose engine = 'local'.")
    search_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        # "local" is not the default: without it Ray waits for a former cluster on this machine.
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": {"PYTHONPATH": search_path}},
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)
        largest = max(float(node["Resources"].get("CPU", 0.0)) for node in ray.nodes())
    except Exception as error:
        ray.shutdown()
        raise FedsimError(f"Ray could not start or connect: {_first_cause(error)}") from error
    try:
        if largest < cpus:
            raise FedsimError(f"a client needs {cpus:g} CPUs, but no machine of the Ray cluster has over {largest:g}.")
        yield
    finally:
        ray.shutdown()


def _gpus(device: str, cpus: float) -> float:
    """Return the GPU share of a client, so that CPUs limit the number of parallel clients.

    Ray hides the GPUs from actors without a GPU share.

    Raises:
        FedsimError: the scenario requires a GPU, and the cluster has none.
    """
    if device == "cpu":
        return 0.0
    import ray  # noqa: PLC0415

    whole = ray.cluster_resources()
    if not whole.get("GPU"):
        raise FedsimError("device is 'cuda', but no machine of the Ray cluster has a GPU. Set device = 'cpu'.")
    return min(1.0, math.floor(_GPU_PARTS * cpus * whole["GPU"] / whole["CPU"]) / _GPU_PARTS)


def _check_address(address: str) -> None:
    """Check that a server answers at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
    except (OSError, ValueError) as error:
        raise FedsimError(
            f"no Ray cluster answers at '{address}': {error}. Expected HOST:PORT, as `ray start --head` prints it."
        ) from error


def _catch(server: ServerApp, raised: list[BaseException]) -> ServerApp:
    """Wrap the ServerApp to store its exception.

    Flower runs it in a separate thread, where a KeyboardInterrupt would be lost.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        try:
            server(grid=grid, context=context)
        except BaseException as error:
            raised.append(error)

    return app


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence notices and telemetry of Flower and Ray, and redirect their files to a temporary folder."""
    log = logging.getLogger("flwr")
    level, before = log.level, {name: os.environ.get(name) for name in ("FLWR_HOME", _LISTENS_OUTSIDE)}
    posts, telemetry.FLWR_TELEMETRY_ENABLED = telemetry.FLWR_TELEMETRY_ENABLED, "0"  # read at the import of flwr
    log.setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="fedsim-") as folder, warnings.catch_warnings():
            os.environ["FLWR_HOME"] = folder
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        telemetry.FLWR_TELEMETRY_ENABLED = posts
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
