"""Child process of an audit: runs the user's code with limited memory; the parent kills it when the time is over.

It reads an order from standard input and writes progress to standard output, both as frames of JSON.
Output of the user's code goes to standard error, which is a log file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedsim.core import process

process.prepare()

from fedsim.audit import auditing, loading  # noqa: E402
from fedsim.audit.record import AuditPlan  # noqa: E402
from fedsim.core.errors import FedsimError, describe_exception  # noqa: E402
from fedsim.core.time_budget import TimeBudget  # noqa: E402
from fedsim.judgement.policy import Policy  # noqa: E402
from fedsim.processes import frames  # noqa: E402
from fedsim.scenario.user_code import forbid_exit  # noqa: E402


def serve() -> None:
    """Read the order, run the audit, and report success or failure to the parent."""
    answers = process.serve_parent()

    def tell(event: str, key: str = "doing") -> None:
        frames.write_json(answers, {key: event})

    order = next(frames.read_all(sys.stdin.buffer)).json()
    plan = AuditPlan.model_validate(order["plan"])
    policy = Policy.model_validate(order["policy"])
    tell(f"imports {plan.target}")
    try:
        with forbid_exit(f"'{plan.target}'"):
            client = loading.load(plan.target)
            tell(f"calls {plan.target}")
            clock = TimeBudget.with_wall_limit(order["seconds"])
            audited = loading.load_subject(client, plan.target)
            auditing.run(audited, plan, policy, Path(order["folder"]), clock, tell)
    except FedsimError as error:
        tell(str(error), "mistake")
    except MemoryError:
        tell(_out_of_memory(plan), "mistake")
    except Exception as error:
        tell(describe_exception(error), "crash")
    else:
        tell("", "done")


def _out_of_memory(plan: AuditPlan) -> str:
    return f"'{plan.target}' ran out of the {plan.memory:.3g} GiB that --memory allows."


if __name__ == "__main__":
    process.limit_memory(float(sys.argv[1]))
    serve()
