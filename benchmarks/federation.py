"""How fast is a federated round, and how much memory does it take?

Engines beside a bare PyTorch loop, pfl-research, and Flower's simulation on Ray: the same tiny MLP on digits, one local
epoch in batches of 32. Passes alternate, each ratio is of medians over the rounds after a run's first one.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import federation_peers
from benchmarks._environments import python_with
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from benchmarks.federation_peers.loop import federated_averaging
from fedsim.experiment import runner
from fedsim.scenario import parse
from fedsim.scenario.world import build

Engine = Literal["local", "vectorized"]

_PFL = "pfl==0.6.0"  # needs an older dp-accounting than Flower
_LOOPED = (4, 20, 100, 500)
_ROUNDS = 12
_BATCH = 32
_SETTLING = 1
_MANY = 100
_OVER_PFL = {20: ">= 4", _MANY: ">= 5"}  # at 20 a round is three steps, and each of them dispatches small operations
_SOONER = ">= 3"  # most of our own first result is the import of torch and Flower, whose time varies by a third
_DIGITS = {"data": {"name": "digits"}, "model": {"name": "mlp", "width": 32, "depth": 1, "bias": True, "dropout": 0.0}}
_LENET = {"data": {"name": "mnist5k", "size": 32}, "model": {"name": "lenet"}}
_POOL = {"scheme": "resampled", "examples_per_client": 15}


@dataclass(frozen=True)
class Program:
    """What a program of `benchmarks.federation_peers` printed."""

    seconds_to_first: float
    rounds: tuple[float, ...]
    peak_mb: float


@experiment("federation", minutes=10, page="benchmarks/federation")
def federation(budget: Budget) -> Cells:
    """Return a cell for each comparison; the long version takes more passes."""
    passes = 7 if budget.full else 3
    loops = {f"{clients} clients beside a loop": partial(_loop_rows, clients, passes) for clients in _LOOPED}
    peers = {f"{clients} clients beside peers": partial(_peer_rows, clients, passes) for clients in _OVER_PFL}
    return {**loops, **peers, "LeNet": _lenet, "memory": _memory}


def _loop_rows(clients: int, passes: int) -> list[Row]:
    limits = {4: "<= 1.3", 20: "<= 1.3", 100: "<= 1.5"}
    loop, local, vectorized = [], [], []
    for _ in range(passes):
        loop.append(_loop(_DIGITS, clients, _ROUNDS))
        local.append(_engine("local", _DIGITS, clients, _ROUNDS))
        vectorized.append(_engine("vectorized", _DIGITS, clients, _ROUNDS))
    return [
        _ratio("local / loop", f"MLP, n={clients}", local, loop, limits.get(clients, "")),
        _ratio("loop / vectorized", f"MLP, n={clients}", loop, vectorized, ">= 8" if clients >= _MANY else ""),
    ]


def _peer_rows(clients: int, passes: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shares = Path(folder) / "shares.npz"
        _write_shares(clients, shares)
        pfl, flower, local, vectorized = [], [], [], []
        for _ in range(passes):
            pfl.append(_pfl(clients, shares))
            local.append(_fedsim("local", _DIGITS, clients))
            vectorized.append(_fedsim("vectorized", _DIGITS, clients))
            flower.append(_flower(clients, shares))
    setting = f"MLP, n={clients}"
    first_flower, first_local = ([run.seconds_to_first for run in runs] for runs in (flower, local))
    return [
        _ratio("pfl / local", setting, _rounds(pfl), _rounds(local), ">= 1"),
        _ratio("pfl / vectorized", setting, _rounds(pfl), _rounds(vectorized), _OVER_PFL[clients]),
        _ratio("Flower on Ray / local", setting, _rounds(flower), _rounds(local), ">= 8"),
        _ratio("Flower on Ray / vectorized", setting, _rounds(flower), _rounds(vectorized), ">= 30"),
        median_row("first result: Flower on Ray / local", setting, _pairs(first_flower, first_local), "times", _SOONER),
    ]


def _lenet() -> list[Row]:
    loop, local = _loop(_LENET, 100, 10), _engine("local", _LENET, 100, 10)
    vectorized = _engine("vectorized", _LENET, 100, 10)
    return [
        _ratio("local / loop", "LeNet on mnist5k, n=100", [local], [loop], ""),
        _ratio("loop / vectorized", "LeNet on mnist5k, n=100", [loop], [vectorized], ""),
    ]


def _memory() -> list[Row]:
    rows: list[Row] = []
    for engine in ("local", "vectorized"):
        small = _fedsim(engine, _DIGITS, 100, rounds=3, partition=_POOL).peak_mb
        many = _fedsim(engine, _DIGITS, 10_000, rounds=3, partition=_POOL)
        population = _fedsim(engine, _DIGITS, 1_000_000, rounds=3, partition=_POOL, cohort=100)
        for setting, run in (("10,000 clients a round", many), ("100 of 1,000,000 clients a round", population)):
            rows.append(
                median_row(f"{engine}: peak memory beyond 100 clients", setting, [run.peak_mb - small], "MB", "<= 300")
            )
            rows.append(median_row(f"{engine}: seconds a round", setting, run.rounds[_SETTLING:], "s", ""))
    return rows


def _loop(task: Mapping[str, Any], clients: int, rounds: int) -> list[float]:
    world = build(parse(_scenario("local", task, clients, rounds), "benchmark"))
    train = world.data.dataset.train
    marks = [time.perf_counter()]
    federated_averaging(
        world.models.new(),
        [(train.inputs[share], train.labels[share]) for share in world.data.shares],
        rounds,
        _BATCH,
        0.1,
        lambda: marks.append(time.perf_counter()),
    )
    return _gaps(marks)


def _engine(engine: Engine, task: Mapping[str, Any], clients: int, rounds: int) -> list[float]:
    world = build(parse(_scenario(engine, task, clients, rounds), "benchmark"))
    marks = [time.perf_counter()]
    runner.train(world, lambda _record: marks.append(time.perf_counter()))
    return _gaps(marks)


def _fedsim(engine: str, task: Mapping[str, Any], clients: int, rounds: int = _ROUNDS, **further: Any) -> Program:
    scenario = json.dumps(_scenario(engine, task, clients, rounds, **further))
    return _program([sys.executable, "-m", "benchmarks.federation_peers.fedsim_engine", scenario])


def _flower(clients: int, shares: Path) -> Program:
    module = "benchmarks.federation_peers.flower_ray"
    return _program([sys.executable, "-m", module, str(clients), str(_ROUNDS), str(shares)])


def _pfl(clients: int, shares: Path) -> Program:
    program = Path(federation_peers.__path__[0]) / "pfl_simulation.py"
    return _program([str(python_with(_PFL)), str(program), str(clients), str(_ROUNDS), str(shares)])


def _program(command: Sequence[str]) -> Program:
    begin = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    return Program(printed["first"] - begin, tuple(printed["rounds"]), printed["peak_mb"])


def _scenario(
    engine: str,
    task: Mapping[str, Any],
    clients: int,
    rounds: int,
    *,
    partition: Mapping[str, Any] | None = None,
    cohort: int | None = None,
) -> dict[str, Any]:
    return {
        "title": "benchmark",
        **task,
        "partition": dict(partition or {}),
        "participation": {"cohort": cohort} if cohort else {},
        "federation": {
            "engine": engine,
            "algorithm": "fedavg",
            "clients": clients,
            "rounds": rounds,
            "batch_size": _BATCH,
            "local_epochs": 1,
            "evaluate_every": 10_000,
        },
    }


def _write_shares(clients: int, path: Path) -> None:
    world = build(parse(_scenario("local", _DIGITS, clients, 1), "benchmark"))
    arrays: dict[str, np.ndarray] = {}
    for number, share in enumerate(world.data.shares):
        arrays[f"x{number}"] = world.data.dataset.train.inputs[share].numpy()
        arrays[f"y{number}"] = world.data.dataset.train.labels[share].numpy()
    np.savez(path, allow_pickle=False, **arrays)


def _rounds(runs: Sequence[Program]) -> list[list[float]]:
    return [list(run.rounds) for run in runs]


def _gaps(marks: Sequence[float]) -> list[float]:
    return [end - begin for begin, end in itertools.pairwise(marks)]


def _ratio(
    name: str, setting: str, over: Sequence[Sequence[float]], under: Sequence[Sequence[float]], must: str
) -> Row:
    """Return a row of one ratio a pass: medians of the rounds after the first."""
    medians = ([statistics.median(rounds[_SETTLING:]) for rounds in runs] for runs in (over, under))
    return median_row(name, setting, _pairs(*medians), "times", must)


def _pairs(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]
