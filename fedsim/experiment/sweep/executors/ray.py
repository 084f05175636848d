"""Runs on a Ray cluster: each worker is an actor with one CPU, which makes its runs in a subprocess.

The subprocess is the same as without Ray, so limits of time and memory act on the machine of the actor. All machines
must share the sweep's folder.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.core import process
from fedsim.core.errors import MissingExtra, describe_exception
from fedsim.experiment.sweep.executors import RunOrder, Worker
from fedsim.experiment.sweep.executors.processes import ProcessExecutor
from fedsim.experiment.sweep.folder import Failed
from fedsim.federation.engines.ray import cluster
from fedsim.scenario import Sweep


@contextmanager
def open_ray(address: str | None) -> Iterator[Ray]:
    """Yield the executor of a running cluster at HOST:PORT, or of a local cluster that ends with the sweep.

    Raises:
        MissingExtra: Ray is not installed.
        FedsimError: no cluster answers at the address, or Ray could not start.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtra("Ray, which --ray needs,", "pip install 'fedsim-privacy[flower-sim]'")
    with cluster(address, 1.0):
        yield Ray()


class Ray:
    """Executor on the connected cluster."""

    def worker(self, number: int, settings: Sweep, log: Path) -> Worker:
        """Return a worker; its actor starts with its first run."""
        return _Actor(number, settings, log)


class _Actor:
    """A Ray actor, replaced after it dies or is killed."""

    def __init__(self, number: int, settings: Sweep, log: Path) -> None:
        self._arguments = number, settings, log.resolve()
        self._actor: Any = None

    def make(self, order: RunOrder) -> Failed | None:
        import ray  # noqa: PLC0415 - an extra
        from ray.exceptions import RayError  # noqa: PLC0415

        if self._actor is None:
            environment = {**process.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
            kind = ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": environment})(_Maker)
            self._actor = kind.remote(*self._arguments)
        try:
            return ray.get(self._actor.make.remote(order))
        except RayError as error:
            self.stop()
            return Failed(
                cause="killed", why=f"its actor ended, perhaps for lack of memory: {describe_exception(error)}"
            )

    def stop(self) -> None:
        import ray  # noqa: PLC0415 - an extra

        actor, self._actor = self._actor, None
        if actor is not None:
            ray.kill(actor)


class _Maker:
    """Class of the actor. Its subprocess ends with it."""

    def __init__(self, number: int, settings: Sweep, log: Path) -> None:
        logging.disable(logging.CRITICAL)
        self._worker = ProcessExecutor().worker(number, settings, log)

    def make(self, order: RunOrder) -> Failed | None:
        return self._worker.make(order)
