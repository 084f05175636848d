"""What do a million clients, a thousand rounds and a billion parameters cost in memory, traffic and hours?

Costs of a client's step, of the server's work for one update and of a whole round are measured over decades of
parameters and clients. Straight lines are fitted to all decades but the last, and compared with what that one takes.
The lines are then read at the asked size, for a Ray cluster of a stated size. The same run is repeated with updates
that a defense makes smaller, and on Ray with clients that exist and take no part.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, least, median_row

_INPUTS, _CLASSES = 64, 10  # of the digits
_TIMEOUT = 1800
_GIB = 1024.0  # MiB
_PARAMETERS = 1e9  # of the model that is priced
_SEEDS = (0, 1, 2)
_COSTS = (  # name, program, what it returns, unit; in the order of `Laws`
    ("a client's step", "client", "seconds", "CPU s"),
    ("memory of a client", "client", "mb", "MiB"),
    ("the server's work for an update", "server", "seconds", "CPU s"),
    ("memory of the server", "server", "mb", "MiB"),
    ("an update on the wire", "client", "bytes", "bytes"),
)
_FEW = {"clients": 10, "rounds": 20, "algorithm": "fedavg", "local_steps": 5, "batch_size": 8}
_ONCE = {"applies": "per_update"}
_SMALLER: dict[str, dict[str, Any]] = {  # what makes an update smaller, as tables of a scenario
    "nothing": {},
    "float16": {"defenses": [{"name": "float16", **_ONCE}]},
    "qsgd, 16 levels": {"defenses": [{"name": "qsgd", "levels": 16, **_ONCE}]},
    "pruning of 99 %, with error feedback": {
        "defenses": [{"name": "pruning", "rate": 0.99, "error_feedback": True, **_ONCE}]
    },
    "adapters of rank 8": {"components": [{"name": "lora", "targets": ["*"], "rank": 8}]},
}


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


_FREE = Line(0.0, 1e-9)
_ONLY_THE_WIRE = Laws(_FREE, _FREE, _FREE, _FREE, sent_bytes=Line(0.0, 4.0))  # float32


@dataclass(frozen=True)
class Price:
    """What a plan costs on a cluster."""

    parallel_clients: int
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
        parallel_clients=at_once,
        client_gib=client_mb / _GIB,
        server_gib=laws.server_mb.at(size) / _GIB,
        terabytes=both_ways / 1e12,
        client_hours=waves * plan.rounds * plan.steps * laws.step_seconds.at(size) / 3600,
        server_hours=updates * laws.update_seconds.at(size) / 3600,
        link_hours=8.0 * both_ways / (cluster.gigabits * 1e9) / 3600,
    )


@experiment("scale", minutes=4, page="scale")
def scale(budget: Budget) -> Cells:
    """Return the cells; the long version goes one decade further in clients."""
    return {
        "sizes": _size_rows,
        "clients": partial(_client_rows, budget.full),
        "updates": _update_rows,
        "Ray": _ray_rows,
    }


def _size_rows() -> Iterator[Row]:
    """Yield costs by size of the model, how far lines miss the largest, and what plans cost by these lines."""
    scenarios = [_model(10**power) for power in range(5, 9)]
    done = [{program: _run(program, scenario) for program in ("client", "server")} for scenario in scenarios]
    sizes = [one["client"]["parameters"] for one in done]
    columns = [[one[program][cost] for one in done] for _name, program, cost, _unit in _COSTS]
    for number, size in enumerate(sizes):
        for (name, _program, _cost, unit), column in zip(_COSTS, columns, strict=True):
            yield least(name, f"{size:.0e} parameters", [column[number]], unit)
    for (name, *_), column in list(zip(_COSTS, columns, strict=True))[:-1]:  # bytes are four for each
        yield _extrapolation_error(name, f"{sizes[-1]:.0e} parameters by a line through the others", sizes, column)
    laws = Laws(*(fit(sizes, column) for column in columns))
    plans = {
        "1,000 of 10^6 clients a round, 10^7 parameters": Plan(1e3, 1e3, 1e7),
        "1,000 of 10^6 clients a round, 10^9 parameters": Plan(1e3, 1e3, _PARAMETERS),
        "all of 10^6 clients a round, 10^9 parameters": Plan(1e6, 1e3, _PARAMETERS),
    }
    for name, plan in plans.items():
        yield from _price_rows(name, price(plan, laws, Cluster()))


def _client_rows(full: bool) -> Iterator[Row]:
    """Yield what a round takes where all clients take part, and where a thousand of a million do."""
    local = [10**power for power in range(2, 5 if full else 4)]
    vectorized = [10**power for power in range(3, 7 if full else 6)]
    for count in local:
        yield from _round_rows(f"all of {count:,} clients, local", _run("federation", _federation(count, "local")))
    done = [_run("federation", _federation(count, "vectorized")) for count in vectorized]
    for count, costs in zip(vectorized, done, strict=True):
        yield from _round_rows(f"all of {count:,} clients, vectorized", costs)
    for name, cost in (("a round", "seconds"), ("memory", "mb")):
        setting = f"{vectorized[-1]:,} clients, vectorized, by a line through the others"
        yield _extrapolation_error(name, setting, vectorized, [one[cost] for one in done])
    for engine in ("local", "vectorized"):
        yield from _round_rows(
            f"1,000 of 1,000,000 clients, {engine}", _run("federation", _federation(10**6, engine, 10**3))
        )


def _round_rows(setting: str, costs: Mapping[str, float]) -> Iterator[Row]:
    yield least("a round", setting, [costs["seconds"]], "CPU s")
    yield least("memory", setting, [costs["mb"]], "MiB")


def _update_rows() -> Iterator[Row]:
    """Yield what a run of few clients loses by smaller updates, and how small a general coder makes them."""
    for setting, tables in _SMALLER.items():
        runs = [_run("updates", {**_model(10**5), **tables, "federation": _FEW, "seed": seed}) for seed in _SEEDS]
        per_cent = [[100.0 * one[what] / one["model"] for one in runs] for what in ("weights", "sent", "coded")]
        yield median_row("accuracy", setting, [100.0 * one["accuracy"] for one in runs], "%")
        for name, share in zip(("down", "up", "up, coded by zlib"), per_cent, strict=True):
            yield median_row(name, setting, share, "% of the model")
        both_ways = [(down + coded) / 200.0 for down, _, coded in zip(*per_cent, strict=True)]
        whole = price(Plan(1e3, 1e3, _PARAMETERS), _ONLY_THE_WIRE, Cluster()).link_hours
        yield median_row("the server's link for 10^9 parameters", setting, [whole * one for one in both_ways], "h")


def _ray_rows() -> Iterator[Row]:
    """Yield what clients cost on Ray that exist and take no part, and what a million of them would."""
    counts = (100, 400)
    done = [_run("federation", _federation(count, "ray", 10)) for count in counts]
    for count, costs in zip(counts, done, strict=True):
        yield least("before the first round", f"10 of {count} clients", [costs["begin"]], "CPU s")
        yield least("a round", f"10 of {count} clients", [costs["seconds"]], "CPU s")
    hours = fit(counts, [one["begin"] for one in done]).at(1e6) / 3600
    yield least("before the first round", "1,000 of 1,000,000 clients, by the line", [hours], "CPU h")


def _extrapolation_error(name: str, setting: str, sizes: Sequence[float], costs: Sequence[float]) -> Row:
    """Return by how much a line through all but the last is off at the last."""
    error = 100.0 * (fit(sizes[:-1], costs[:-1]).at(sizes[-1]) / costs[-1] - 1.0)
    return least(f"{name}: off", setting, [error], "%")


def _price_rows(name: str, costs_of_plan: Price) -> list[Row]:
    figures = (
        ("clients at a time", costs_of_plan.parallel_clients, ""),
        ("memory of a client", costs_of_plan.client_gib, "GiB"),
        ("memory of the server", costs_of_plan.server_gib, "GiB"),
        ("traffic both ways", costs_of_plan.terabytes, "TB"),
        ("hours of clients", costs_of_plan.client_hours, "h"),
        ("hours of the server's sums", costs_of_plan.server_hours, "h"),
        ("hours of the server's link", costs_of_plan.link_hours, "h"),
        ("hours if nothing overlaps", costs_of_plan.hours, "h"),
    )
    return [least(what, name, [float(value)], unit) for what, value, unit in figures]


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


def _federation(clients: int, engine: str, cohort: int | None = None) -> dict[str, Any]:
    """Return a federation of small clients, of whom ten are observed."""
    return {
        "title": "benchmark",
        "data": {"name": "digits"},
        "partition": {"scheme": "resampled", "examples_per_client": 15},
        "model": {"name": "mlp", "width": 64, "depth": 1, "dropout": 0.0},
        "federation": {
            "clients": clients,
            "engine": engine,
            "rounds": 2,
            "algorithm": "fedavg",
            "local_steps": 1,
            "batch_size": 8,
            "evaluate_every": 10_000,
        },
        "participation": {"cohort": cohort},
        "threat": {"victims": 10},
    }
