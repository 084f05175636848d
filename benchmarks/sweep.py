"""What a sweep costs beside its runs: the overhead of a run, and a finished sweep again.

The overhead of a run is what a worker takes per run beyond the same runs in one process. The finished sweep of 1,000
runs consists of records under the digests of a real plan. Seconds are those of the processor, of all processes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, measured
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.experiment.runner import scenario_hash
from fedsim.experiment.sweep.folder import SweepFolder, plan_of
from fedsim.experiment.sweep.origin import origin_of
from fedsim.experiment.sweep.plan import plan_runs
from fedsim.scenario import load

RUNS, MANY = 12, 1000
_SCENARIO = """
title = "small runs"
[data]
name = "mnist5k"
[model]
name = "mlp"
[federation]
clients = 4
rounds = {rounds}
local_steps = 10
algorithm = "fedavg"
batch_size = 16
[threat]
victims = 1
keep_updates = false
[sweep]
seeds = {seeds}
"""
_ALONE = """
import sys, time
from fedsim.experiment.sweep.executors.worker import answer
from fedsim.experiment.sweep.plan import plan_runs
from fedsim.scenario import load
from pathlib import Path
runs = plan_runs(load(Path(sys.argv[1])), "benchmark")
answer({"scenario": runs[0].scenario, "path": sys.argv[2] + "/first", "command": ""})
begin = time.process_time()
for number, run in enumerate(runs[1:]):
    answer({"scenario": run.scenario, "path": f"{sys.argv[2]}/{number}", "command": ""})
print((time.process_time() - begin) / (len(runs) - 1))
"""


@experiment("sweep", minutes=3, page="benchmarks/sweep")
def sweep(budget: Budget) -> Cells:
    """Return the cells of new sweeps and of a finished one; the long version repeats them."""
    repeats = 5 if budget.full else 3
    return {"a new sweep": partial(_new, repeats), "a finished sweep": partial(_finished, repeats)}


def _new(repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        path = _written(place / "small.toml", RUNS, 20)
        swept = [_seconds(path, place / f"swept-{n}") / RUNS for n in range(repeats)]
        alone = [
            float(_output_of([sys.executable, "-c", _ALONE, str(path), str(place / f"alone-{n}")]))
            for n in range(repeats)
        ]
    setting = f"{RUNS} runs"
    yield measured("a run alone", setting, alone, "s")
    overhead = [of_sweep - bare for of_sweep, bare in zip(swept, alone, strict=True)]
    yield measured("overhead of a run, start-up shared out", setting, overhead, "s", "< 1")


def _finished(repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        again = _again(Path(temporary), repeats)
    yield measured("the same command on a finished sweep", f"{MANY} runs", again, "s", "< 2")


def _written(path: Path, runs: int, rounds: int) -> Path:
    path.write_text(_SCENARIO.format(seeds=list(range(runs)), rounds=rounds))
    return path


def _output_of(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _seconds(path: Path, out: Path) -> float:
    begin = _of_children()
    _output_of([sys.executable, "-m", "fedsim.cli", "sweep", str(path), "--out", str(out), "--jobs", "1"])
    return _of_children() - begin


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _again(place: Path, repeats: int) -> list[float]:
    path, out = _written(place / "many.toml", MANY, 1), place / "many"
    scenario = load(path)
    runs = plan_runs(scenario, str(path))
    folder = SweepFolder(out)
    folder.prepare(plan_of(scenario.title, scenario_hash(scenario), scenario.model_dump_json(), runs))
    folder.keep_origin(origin_of(path, []))
    for run in runs:
        folder.run_path(run.digest).mkdir()
        record = json.dumps({"schema_version": SCHEMA_VERSION, "status": "finished"}, indent=1)
        (folder.run_path(run.digest) / "record.json").write_text(record)
    return [_seconds(path, out) for _ in range(repeats)]
