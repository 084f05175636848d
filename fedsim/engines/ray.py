"""Flower's simulation engine: clients are trained by a pool of Ray actors, here or on an existing cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsim import apps
from fedsim.engines.worker import WorkerApp
from fedsim.errors import FedsimError, MissingExtra
from fedsim.journal import Journal

_THIS_MACHINE = "127.0.0.1"


def run(
    world_json: str,
    clients: int,
    journal: Journal,
    *,
    timeout: float = apps.ROUND_TIMEOUT,
    address: str | None = None,
    cpus: float = 1.0,
) -> None:
    """Run the federation to its end on Ray.

    Args:
        world_json: the resolved scenario.
        clients: number of simulated nodes.
        journal: told of observed updates, rounds and the final weights, from another thread of this process.
        timeout: seconds that a round waits for its clients.
        address: of a running Ray cluster, whose machines have fedsim installed; None starts Ray on this machine
            for the time of the run.
        cpus: CPUs that a client takes; their quotient is the number of clients that train at a time.

    Raises:
        MissingExtra: Ray is not installed.
        FedsimError: Ray could not run it, or what the ServerApp raised.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("Ray, which the engine 'ray' needs,", "pip install 'fedsim-privacy[flower-sim]'")
    run_config = {apps.SCENARIO_KEY: world_json}
    raised: list[BaseException] = []
    server = _caught(apps.server_app(lambda _context: journal, timeout), run_config, raised)
    try:
        with _quiet():
            # The import takes a second and starts nothing; Flower's own check of Ray would end the process.
            from flwr.simulation import run_simulation  # noqa: PLC0415

            run_simulation(server, WorkerApp(run_config), clients, backend_config=_backend(address, cpus))
    except Exception as error:
        if not raised:
            raise FedsimError(f"Ray could not run the federation: {_first_cause(error)}") from error
    if raised:
        raise raised[0]


def _backend(address: str | None, cpus: float) -> dict[str, Any]:
    init: dict[str, Any] = {"include_dashboard": False}
    init |= {"_node_ip_address": _THIS_MACHINE} if address is None else {"address": address}
    return {"init_args": init, "client_resources": {"num_cpus": cpus, "num_gpus": 0.0}}


def _caught(server: ServerApp, run_config: dict[str, str], raised: list[BaseException]) -> ServerApp:
    """Return the ServerApp with this run configuration, keeping what it raises.

    Flower runs it in a thread of its own, where it would lose a KeyboardInterrupt.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        own = Context(run_id=context.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={**run_config})
        try:
            server(grid=grid, context=own)
        except BaseException as error:
            raised.append(error)

    return app


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notices of Flower and Ray, and keep what they write out of the home folder and the environment."""
    log = logging.getLogger("flwr")
    level, before = log.level, {name: os.environ.get(name) for name in ("FLWR_HOME", "PYTHONPATH")}
    log.setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="fedsim-") as folder, warnings.catch_warnings():
            os.environ["FLWR_HOME"] = folder
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
