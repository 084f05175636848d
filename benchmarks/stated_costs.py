"""Processor seconds that attacks take, beside the seconds that they state for the order of `auto`.

Each attack runs on its own small example with the settings of `auto` for a budget of 200 gradients. The first run warms
up the process, the faster of two further runs counts. Seconds below 20 ms count as 20 ms: at this size imports and
caches decide. A stated figure need only order attacks, so it may be wrong by a factor of 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import timed
from benchmarks._rows import Row
from benchmarks._victims import send_update, world_of
from fedsim.core import registry, seeding
from fedsim.core.candidates import TRIED_EFFORTS
from fedsim.core.hooks import Attack
from fedsim.core.registry import Method
from fedsim.core.types import Observation
from fedsim.scenario.example import example_of
from fedsim.threat.observe import observe

_GRADIENTS = 200
_LEAST = 0.02  # seconds
_FACTOR = 5


@experiment("stated-costs", minutes=2, page="attacks/auto")
def stated_costs(budget: Budget) -> Cells:
    """Return a cell for each attack that `auto` tries."""
    del budget
    methods = registry.methods("attack", Attack)
    return {name: partial(_rows, method) for name, method in methods.items() if _is_tried(method)}


def _is_tried(method: Method) -> bool:
    return method.tier != "baseline" and cast("type[Attack[Any]]", method.make).effort in TRIED_EFFORTS


def _rows(method: Method) -> Iterator[Row]:
    observation, kind = _observe(method), cast("type[Attack[Any]]", method.make)
    own = (example_of(method) or {})["attacks"][0]
    settings = {key: value for key, value in own.items() if key in method.config.model_fields}
    attack = method.make(method.config.model_validate({**kind.settings_for_budget(_GRADIENTS), **settings}))
    stated, taken = attack.outlook(observation).seconds, _seconds(attack, observation)
    first, second = max(stated, _LEAST), max(taken, _LEAST)
    note = f"stated {stated:.2g} s, measured {taken:.2g} s"
    yield Row(
        "stated or measured, the larger over the smaller",
        method.name,
        max(first, second) / min(first, second),
        "x",
        must=f"<= {_FACTOR}",
        note=note,
    )


def _observe(method: Method) -> Observation:
    """Return the observation of the last attacked round of the attack's example, at the first weights."""
    world = world_of(example_of(method) or {})
    world.check()
    threat, attack = world.scenario.threat, world.scenario.attacks[0]
    *earlier, last = (send_update(world, round_=number) for number in threat.rounds)
    return observe(last, {*threat.knows, *attack.also_knows}, earlier)


def _seconds(attack: Attack[Any], observation: Observation) -> float:
    def run() -> None:
        with torch.random.fork_rng():
            attack(observation, seeding.generator(1, "attack"))

    return min([timed(run)[1] for _ in range(3)][1:])
