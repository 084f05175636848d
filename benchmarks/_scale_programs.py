"""What one client, one server and one federation cost, as programs of their own, since memory is that of a process.

Seconds are CPU seconds, which other programs on the machine disturb least.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import itertools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

from benchmarks.federation_peers._report import peak_mb  # noqa: E402
from fedsim.core.types import Contribution  # noqa: E402
from fedsim.experiment import runner  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.federation.server import pack  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import build  # noqa: E402

_REPEATS = 3
_ADDED = 4  # updates that the server adds up


def client(scenario: dict[str, Any]) -> dict[str, float]:
    """Return the CPU seconds of a client's step, the bytes that it sends, and the memory beyond an empty process."""
    before = peak_mb()
    world = build(parse(scenario, "benchmark"))
    weights = world.models.first_weights
    seconds = min(_measure_seconds(lambda: local_training(world, weights, 1, 0)) for _ in range(_REPEATS))
    update, _ = local_training(world, weights, 1, 0)
    vector = world.models.layout.flat(update.tensors, update.buffers)
    sent = len(pack(vector, 1, 0.0).config_records["update"]["vector"])  # type: ignore[arg-type]
    return {
        "parameters": float(world.models.layout.size),
        "seconds": seconds,
        "bytes": float(sent),
        "mb": peak_mb() - before,
    }


def server(scenario: dict[str, Any]) -> dict[str, float]:
    """Return the CPU seconds that a server takes for one update, and its memory beyond an empty process."""
    before = peak_mb()
    world = build(parse(scenario, "benchmark"))
    size = world.models.layout.size
    data = torch.ones(size).numpy().tobytes()

    def combined() -> None:
        each = (Contribution(i, torch.frombuffer(bytearray(data), dtype=torch.float32), 1) for i in range(_ADDED))
        world.stack.new_aggregator().combine(each, world.server_round(1))

    seconds = min(_measure_seconds(combined) for _ in range(_REPEATS)) / _ADDED
    return {"parameters": float(size), "seconds": seconds, "mb": peak_mb() - before}


def federation(scenario: dict[str, Any]) -> dict[str, float]:
    """Return the CPU seconds of a round, what the first takes beyond that, and the peak memory of the process."""
    marks = [time.process_time()]
    runner.train(build(parse(scenario, "benchmark")), lambda _record: marks.append(time.process_time()))
    first, *others = (end - begin for begin, end in itertools.pairwise(marks))
    return {"seconds": min(others), "begin": first - min(others), "mb": peak_mb()}


def updates(scenario: dict[str, Any]) -> dict[str, float]:
    """Return the accuracy of a run, and the bytes of its model, of weights and of an update on the wire, and coded."""
    world = build(parse(scenario, "benchmark"))
    journal = runner.train(world, lambda _record: None)
    update = journal.entries[-1].update
    data = pack(world.models.layout.flat(update.tensors, update.buffers), 1, 0.0).config_records["update"]["vector"]
    model = world.models.load_weights(journal.weights)
    return {
        "accuracy": next(iter(journal.rounds[-1].test_metrics.values())),
        "model": float(sum(parameter.nbytes for parameter in model.parameters())),
        "weights": float(sum(tensor.nbytes for tensor in world.models.first_weights.values())),
        "sent": float(len(data)),  # type: ignore[arg-type]
        "coded": float(len(zlib.compress(data))),  # type: ignore[arg-type]
    }


def _measure_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


PROGRAMS = {"client": client, "server": server, "federation": federation, "updates": updates}

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(PROGRAMS[sys.argv[1]](json.loads(sys.argv[2]))))
