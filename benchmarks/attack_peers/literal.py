"""The yardstick as a program: in the process settings that Python comes with, or with `prepared` in this project's."""

from __future__ import annotations

import sys

from fedsim.core import process

if sys.argv[1:] == ["prepared"]:
    process.prepare()

from benchmarks._literal_dia import literal_dia
from benchmarks.attack_peers._service import Run, Task, Watch, finish_run, serve
from fedsim.core import seeding


def answer(task: Task) -> Run:
    """Attack the one victim of a task."""
    (victim,) = task.victims()
    watch = Watch()
    generator = seeding.generator(1, "attack", task.victim)
    return finish_run(victim, watch, literal_dia(victim.observation, task.settings["max_iterations"], generator, watch))


if __name__ == "__main__":
    serve(answer)
