"""The same federation in fedsim, as a program of its own, to see its start and its memory."""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import json  # noqa: E402
import sys  # noqa: E402

import torch  # noqa: E402

from benchmarks.federation_peers._report import Stopwatch  # noqa: E402
from fedsim.experiment import runner  # noqa: E402
from fedsim.scenario import parse  # noqa: E402
from fedsim.scenario.world import build  # noqa: E402


def main() -> None:
    """Run a scenario given as JSON on the command line."""
    torch.set_num_threads(1)
    stopwatch = Stopwatch()
    runner.train(build(parse(json.loads(sys.argv[1]), "command line")), lambda _record: stopwatch())
    stopwatch.report()


if __name__ == "__main__":
    main()
