"""The report of a sweep of 1,000 runs: processor time and peak memory of one process that builds it.

One small run is made for real; its record and pictures are copied under 1,000 digests, 25 seeds of 40 settings, with
the scores shaken, so that no two are alike.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from fedsim.experiment.run_into import run_into
from fedsim.experiment.runner import scenario_hash
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario, parse

RUNS, SEEDS = 1000, 25
SMALL: dict[str, Any] = {
    "title": "one small run",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "width": 16, "depth": 2},
    "federation": {"clients": 8, "rounds": 10, "evaluate_every": 5},
    "threat": {"victims": 8, "keep_updates": False},
    "attacks": [
        {"name": "inverting-gradients", "max_iterations": 100},
        {"name": "closed-form-linear"},
        {"name": "closed-form-linear", "label": "informed", "also_knows": ["defenses"]},
    ],
    "policy": {"max_recovered": 0.05, "max_accuracy_loss": 0.05},
}
_BUILD = """
import resource, sys, time
from pathlib import Path
from fedsim.report.sweep import build
build(Path(sys.argv[1]))
print(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@experiment("sweep-report", minutes=1, page="benchmarks/README")
def sweep_report(budget: Budget) -> Cells:
    """Return the one cell; the long version builds the report three times."""
    return {"report": partial(_rows, 3 if budget.full else 1)}


def _rows(repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sweep"
        size = copies(Path(temporary) / "run", folder)
        built = [_build_report(folder) for _ in range(repeats)]
    setting = f"{RUNS} runs, {SEEDS} seeds, records of {size / 1024:.0f} KiB"
    return [
        median_row("report of a sweep, processor time", setting, [figures[0] for figures in built], "s", "<= 20"),
        median_row("report of a sweep, peak memory", setting, [figures[1] for figures in built], "GiB", "<= 1"),
    ]


def copies(run: Path, folder: Path) -> int:
    """Make one run and a sweep of its copies; return the size of a record in bytes."""
    scenario = parse(SMALL, "benchmark")
    run_into(scenario, run, command="benchmark", existing="retry")
    record = json.loads((run / "record.json").read_text())
    source = random.Random(0)
    planned: list[dict[str, Any]] = []
    for number in range(RUNS):
        knob, seed = divmod(number, SEEDS)
        defenses = [{"name": f"defense-{knob % 8}", "scale": 0.01 * (1 + knob // 8)}] if knob else []
        shaken = _shaken(record, source)
        shaken["plan"] = {**record["plan"], "seed": seed, "defenses": defenses}
        digest = f"{number:016x}"
        RunFolder(folder / "runs" / digest).path.mkdir(parents=True)
        (folder / "runs" / digest / "record.json").write_text(json.dumps(shaken, indent=1))
        os.link(run / "arrays.npz", folder / "runs" / digest / "arrays.npz")
        name = f"defense {knob % 8}, {knob // 8}" if knob else "none"
        planned.append({"digest": digest, "name": f"{name}, seed {seed}", "values": {"defense": name, "seed": seed}})
    (folder / "sweep.json").write_text(json.dumps(_plan(scenario, planned)))
    return (folder / "runs" / f"{0:016x}" / "record.json").stat().st_size


def _plan(scenario: Scenario, planned: list[dict[str, Any]]) -> dict[str, Any]:
    whole = scenario.model_dump(mode="json")
    return {
        "schema_version": 1,
        "title": "copies",
        "digest": scenario_hash(scenario),
        "scenario": whole,
        "runs": planned,
    }


def _shaken(record: dict[str, Any], source: random.Random) -> dict[str, Any]:
    again = json.loads(json.dumps(record))
    for arm in again["arms"]:
        for entry in arm["rounds"]:
            entry["tested"] = {"test_accuracy": source.random()}
        for finding in arm["findings"]:
            for victim in finding.get("victims", ()):
                for item in victim["scores"]:
                    item["values"] |= {"psnr": 40 * source.random(), "ssim": source.random()}
    return again


def _build_report(folder: Path) -> tuple[float, float]:
    shutil.rmtree(folder / "figures", ignore_errors=True)
    command = [sys.executable, "-c", _BUILD, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, memory = map(float, output.split())
    return seconds, memory
