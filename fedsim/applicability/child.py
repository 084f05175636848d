"""Child process of `fedsim which`: runs the user's code with limited memory, and answers with a frame of JSON."""

from __future__ import annotations

import sys

from fedsim.core import process

process.prepare()

from fedsim.applicability.subjects import overview_of_subject  # noqa: E402
from fedsim.audit import loading  # noqa: E402
from fedsim.core.errors import FedsimError, describe_exception  # noqa: E402
from fedsim.processes import frames  # noqa: E402
from fedsim.scenario.user_code import forbid_exit  # noqa: E402


def serve() -> None:
    """Read the order, and send the overview or the failure to the parent."""
    answers = process.serve_parent()
    order = next(frames.read_all(sys.stdin.buffer)).json()
    target = order["target"]
    try:
        with forbid_exit(f"'{target}'"):
            subject = loading.load_subject(loading.load(target), target)
            overview = overview_of_subject(subject, target, order["batch_size"], order["knows"])
    except FedsimError as error:
        frames.write_json(answers, {"mistake": str(error)})
    except MemoryError:
        frames.write_json(answers, {"mistake": f"'{target}' ran out of the memory that --memory allows."})
    except Exception as error:
        frames.write_json(answers, {"mistake": f"'{target}' failed: {describe_exception(error)}."})
    else:
        frames.write_json(answers, overview.to_tables())


if __name__ == "__main__":
    process.limit_memory(float(sys.argv[1]))
    serve()
