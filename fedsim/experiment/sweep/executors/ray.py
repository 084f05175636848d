"""Runs on a Ray cluster: each worker is an actor with one CPU. All machines must share the sweep's folder."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsim.core import process
from fedsim.core.errors import MissingExtra, describe_exception
from fedsim.experiment.sweep.executors import RunOrder, Worker, failure_of
from fedsim.experiment.sweep.folder import Failed
from fedsim.federation.engines.ray import cluster
from fedsim.scenario import Sweep


@contextmanager
def on_ray(address: str | None) -> Iterator[Ray]:
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
        return _Actor(settings)


class _Actor:
    """A Ray actor, replaced after it dies or is killed."""

    def __init__(self, settings: Sweep) -> None:
        self._settings = settings
        self._actor: Any = None

    def make(self, order: RunOrder) -> Failed | None:
        import ray  # noqa: PLC0415 - an extra
        from ray.exceptions import GetTimeoutError, RayError  # noqa: PLC0415

        if self._actor is None:
            environment = {**process.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
            kind = ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": environment})(_Maker)
            self._actor = kind.remote(self._settings.memory or 0.0)
        limit = None if self._settings.minutes is None else 60.0 * self._settings.minutes
        try:
            return failure_of(ray.get(self._actor.make.remote(asdict(order)), timeout=limit))
        except GetTimeoutError:
            self.stop()
            return Failed(cause="timeout", why=f"it took longer than sweep.minutes = {self._settings.minutes:g}")
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
    """Class of the actor. It imports the worker, and thus torch, on its own machine."""

    def __init__(self, memory: float) -> None:
        logging.disable(logging.CRITICAL)
        from fedsim.experiment.sweep.executors import worker  # noqa: PLC0415 - prepares the process before torch is imported

        self._worker = worker
        process.limit_memory(memory)

    def make(self, order: dict[str, str]) -> dict[str, str | None]:
        return self._worker.answer(order)
