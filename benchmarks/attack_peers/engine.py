"""The attacks of this project, in its process settings."""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from typing import Any  # noqa: E402

from benchmarks.attack_peers._service import Run, Task, Watch, finish_run, serve  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Attack  # noqa: E402


def answer(task: Task) -> Run:
    """Attack all victims of a task together; the first one is watched."""
    method = registry.get("attack", task.attack)
    attack: Attack[Any] = method.make(method.config.model_validate(dict(task.settings)))
    victims = task.victims()
    generators = [seeding.generator(1, "attack", task.victim + index) for index in range(len(victims))]
    observations = [victim.observation for victim in victims]
    watch = Watch()
    on_steps = [watch, *(lambda _step: None for _ in victims[1:])]
    guesses = attack.together(observations, generators, on_steps)
    return finish_run(victims[0], watch, guesses[0].inputs)


if __name__ == "__main__":
    serve(answer)
