"""What it costs to run attacks in a process of their own: `fedsim run --isolate`.

Attacks here and there take turns. Seconds are those of a clock, which other programs lengthen; a ratio they leave as it
is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import in_turn
from benchmarks._rows import Row, measured, ratio, share
from fedsim.core import seeding
from fedsim.core.types import Observation, Reconstruction, WireEntry
from fedsim.federation.client import local_training
from fedsim.scenario import AttackChoice, parse
from fedsim.scenario import world as worlds
from fedsim.threat.attacking import Start, at_once, frames, search, start_here
from fedsim.threat.attacking.apart import start_apart
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim

_FEW, _ALL = 5, 15
_KNOWS = ["labels", "batch-size", "dropout-rates", "input-statistics"]
_MODELS = {
    "MLP 2 x 256, digits": ({"name": "digits"}, {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.25}),
    "ResNet-18, digits": ({"name": "digits"}, {"name": "resnet18"}),
}


class _Timed(NamedTuple):
    start: float  # until the first answer
    search: float
    guess: Reconstruction


@experiment("isolation", minutes=1, page="benchmarks/isolation")
def isolation(budget: Budget) -> Cells:
    """Return a cell for each model."""
    return {name: partial(_of_model, name, _ALL if budget.full else _FEW) for name in _MODELS}


def _of_model(name: str, repeats: int) -> Iterator[Row]:
    observation = _observation(name)
    yield measured("observation, serialised", name, [len(frames.saved(observation)) / 1e6], "MB")
    steps = 200 if "MLP" in name else 5
    ways = [partial(_timed, how, observation) for how in (start_here, start_apart)]
    here, apart = in_turn(ways, [steps] * repeats)
    yield measured("start of a process, until its first answer", name, [timed.start for timed in apart], "s")
    there, at_home = ([timed.search for timed in way] for way in (apart, here))
    yield ratio(f"{steps} steps in a process of their own, over as many here", name, there, at_home)
    same = [float(torch.equal(a.guess.inputs, b.guess.inputs)) for a, b in zip(here, apart, strict=True)]
    yield share("guesses of the same bits", name, same, ">= 1")


def _observation(name: str) -> Observation:
    data, model = _MODELS[name]
    raw = {"title": name, "seed": 1, "data": data, "model": model, "federation": {"clients": 2, "batch_size": 4}}
    world = worlds.build(parse({**raw, "threat": {"knows": _KNOWS}}, name))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    return observe(
        Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth), world.scenario.threat.knows
    )


def _timed(how: Start, observation: Observation, iterations: int) -> _Timed:
    settings = {"max_iterations": iterations, "threshold": 0.0, "patience": iterations}
    choice = AttackChoice.model_validate({"name": "inverting-gradients", **settings})
    begin = time.perf_counter()
    with how("attack", choice, lambda: False) as attacker:
        at_once(attacker, observation)
        started = time.perf_counter()
        guesses = search(attacker, [observation], [seeding.generator(1, "attack")])
        ended = time.perf_counter()
    if isinstance(guesses, str):
        raise RuntimeError(guesses)
    return _Timed(started - begin, ended - started, guesses[0])
