"""Worker process of a sweep: single-threaded, executes runs in sequence until its input ends.

Orders are frames of JSON on standard input, answers are frames of JSON on standard output; prints of user code go to
standard error, a log file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedsim.core import process

process.prepare()

from fedsim.core.errors import FedsimError, describe_exception  # noqa: E402
from fedsim.experiment.run_into import run_into  # noqa: E402
from fedsim.processes import frames  # noqa: E402
from fedsim.record.atomic_files import is_full  # noqa: E402
from fedsim.scenario import Scenario  # noqa: E402


def answer(order: dict[str, str]) -> dict[str, str | None]:
    """Execute a run, and return its error message (or None) under `why`, and the kind of error under `cause`."""
    try:
        scenario = Scenario.model_validate_json(order["scenario"])
        run_into(scenario, Path(order["path"]), command=order["command"], existing="retry")
    except FedsimError as error:
        return {"why": str(error), "cause": "disk" if is_full(error.__cause__) else "error"}
    except MemoryError:
        return {"why": "it ran out of the memory that sweep.memory allows", "cause": "error"}
    except Exception as error:  # user code may raise anything
        return {"why": describe_exception(error), "cause": "disk" if is_full(error) else "error"}
    return {"why": None, "cause": None}


def _serve() -> None:
    answers = process.serve_parent()
    for order in frames.read_all(sys.stdin.buffer):
        frames.write_json(answers, answer(order.json()))


if __name__ == "__main__":
    process.limit_memory(float(sys.argv[1]))
    _serve()
