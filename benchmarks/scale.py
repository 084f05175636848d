"""What do a million clients, a thousand rounds and a billion parameters cost in memory, traffic and hours?

Costs of a client's step, of the server's work for one update and of a whole round are measured over decades of
parameters and clients. Straight lines are fitted to all decades but the last, and compared with what that one takes.
The lines are then read at the asked size, for a Ray cluster of a stated size.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, measured

_INPUTS, _CLASSES = 64, 10  # of the digits
_TIMEOUT = 1800
_GIB = 1024.0  # MiB


@dataclass(frozen=True)
class Line:
    """A cost as a straight line: `start` + `slope` times the size."""

    start: float
    slope: float

    def at(self, size: float) -> float:
        """Return the cost of a size."""
        return self.start + self.slope * size


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Line:
    """Return the line with the least relative squared error; it neither falls nor starts below zero."""
    from scipy.optimize import nnls  # noqa: PLC0415 - takes a while to import

    weights = 1.0 / np.asarray(costs)
    scale = float(max(sizes))
    columns = np.stack([weights, weights * np.asarray(sizes) / scale], axis=1)
    start, slope = nnls(columns, np.ones(len(sizes)))[0]
    return Line(float(start), float(slope) / scale)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: equal machines, and the link of the one that runs the server."""

    machines: int = 100
    cores: int = 64
    gib: float = 256.0
    gigabits: float = 10.0


@dataclass(frozen=True)
class Plan:
    """A federation to price: `cohort` clients a round, each of so many local steps."""

    cohort: float
    rounds: float
    parameters: float
    steps: float = 10.0


@dataclass(frozen=True)
class Laws:
    """What a size costs: seconds and MiB of a client's step and of the server's work for one update, and bytes sent."""

    step_seconds: Line
    step_mb: Line
    update_seconds: Line
    server_mb: Line
    sent_bytes: Line


@dataclass(frozen=True)
class Price:
    """What a plan costs on a cluster."""

    at_once: int
    client_gib: float
    server_gib: float
    terabytes: float
    client_hours: float
    server_hours: float
    link_hours: float

    @property
    def hours(self) -> float:
        """Hours of the whole, if nothing overlaps."""
        return self.client_hours + self.server_hours + self.link_hours


def price(plan: Plan, laws: Laws, cluster: Cluster) -> Price:
    """Return what a plan costs. As many clients train at a time as there are cores, and memory for their models."""
    size, updates = plan.parameters, plan.cohort * plan.rounds
    client_mb = laws.step_mb.at(size)
    a_machine = min(cluster.cores, math.floor(_GIB * cluster.gib / client_mb))
    at_once = int(min(plan.cohort, cluster.machines * a_machine))
    both_ways = 2.0 * laws.sent_bytes.at(size) * updates
    waves = math.ceil(plan.cohort / at_once) if at_once else math.inf
    return Price(
        at_once=at_once,
        client_gib=client_mb / _GIB,
        server_gib=laws.server_mb.at(size) / _GIB,
        terabytes=both_ways / 1e12,
        client_hours=waves * plan.rounds * plan.steps * laws.step_seconds.at(size) / 3600,
        server_hours=updates * laws.update_seconds.at(size) / 3600,
        link_hours=8.0 * both_ways / (cluster.gigabits * 1e9) / 3600,
    )


@experiment("scale", minutes=10, page="scale")
def scale(budget: Budget) -> Cells:
    """Return the one cell, since laws need every size; the long version goes one decade further on both axes."""
    return {"sizes": partial(_rows, budget.full)}


def _rows(full: bool) -> list[Row]:
    sizes = [10**power for power in range(5, 9 if full else 8)]
    clients = [_run("client", _model(size)) for size in sizes]
    servers = [_run("server", _model(size)) for size in sizes]
    counts = [10**power for power in range(2, 5 if full else 4)]
    rounds = [_run("federation", _many(count)) for count in counts]
    rows: list[Row] = []
    laws = Laws(
        step_seconds=_held("a client's step", clients, "parameters", "seconds", "CPU s", rows),
        step_mb=_held("memory of a client", clients, "parameters", "mb", "MiB", rows),
        update_seconds=_held("the server's work for an update", servers, "parameters", "seconds", "CPU s", rows),
        server_mb=_held("memory of the server", servers, "parameters", "mb", "MiB", rows),
        sent_bytes=_held("an update on the wire", clients, "parameters", "bytes", "bytes", rows),
    )
    _held("a round of 5,000 parameters", rounds, "clients", "seconds", "CPU s", rows)
    _held("memory of such a round", rounds, "clients", "mb", "MiB", rows)
    plans = {
        "1,000 of 10^6 clients a round": Plan(1e3, 1e3, 1e9),
        "all of 10^6 clients a round": Plan(1e6, 1e3, 1e9),
        "1,000 of 10^6 clients, 10^7 parameters": Plan(1e3, 1e3, 1e7),
    }
    for name, plan in plans.items():
        rows += _priced(name, price(plan, laws, Cluster()))
    return rows


def _held(
    what: str, measurements: Sequence[dict[str, float]], size: str, cost: str, unit: str, rows: list[Row]
) -> Line:
    """Return the line through all decades; add what it costs at each, and how far the line without the last is off."""
    sizes, costs = [one[size] for one in measurements], [one[cost] for one in measurements]
    rows += [measured(what, f"{at:.3g} {size}", [figure], unit, "") for at, figure in zip(sizes, costs, strict=True)]
    error = 100.0 * (fit(sizes[:-1], costs[:-1]).at(sizes[-1]) / costs[-1] - 1.0)
    rows.append(measured(f"{what}: error one decade further", f"{sizes[-1]:.3g} {size}", [error], "%", ""))
    return fit(sizes, costs)


def _priced(name: str, costs_of_plan: Price) -> list[Row]:
    figures = (
        ("clients at a time", costs_of_plan.at_once, "clients"),
        ("memory of a client", costs_of_plan.client_gib, "GiB"),
        ("memory of the server", costs_of_plan.server_gib, "GiB"),
        ("traffic both ways", costs_of_plan.terabytes, "TB"),
        ("hours of clients", costs_of_plan.client_hours, "h"),
        ("hours of the server's sums", costs_of_plan.server_hours, "h"),
        ("hours of the server's link", costs_of_plan.link_hours, "h"),
        ("hours if nothing overlaps", costs_of_plan.hours, "h"),
    )
    return [measured(f"priced: {what}", name, [float(value)], unit, "") for what, value, unit in figures]


def _run(program: str, scenario: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks._scale_programs", program, json.dumps(scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{program} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _model(parameters: int) -> dict[str, Any]:
    """Return the scenario of a client with an MLP of two hidden layers and about so many parameters."""
    ends = _INPUTS + _CLASSES
    width = round((math.sqrt(ends**2 + 4 * parameters) - ends) / 2)
    return {
        "title": "benchmark",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": width, "depth": 2, "dropout": 0.0},
        "federation": {"clients": 4, "algorithm": "fedavg", "local_steps": 1, "batch_size": 8},
    }


def _many(clients: int) -> dict[str, Any]:
    """Return a federation of small clients, of whom ten are observed."""
    return {
        "title": "benchmark",
        "data": {"name": "digits"},
        "partition": {"scheme": "resampled", "examples_per_client": 15},
        "model": {"name": "mlp", "width": 64, "depth": 1, "dropout": 0.0},
        "federation": {
            "clients": clients,
            "rounds": 3,
            "algorithm": "fedavg",
            "local_steps": 1,
            "batch_size": 8,
            "evaluate_every": 10_000,
        },
        "threat": {"victims": 10},
    }
