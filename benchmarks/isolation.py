"""What it costs to run attacks in a process of their own: `fedsim run --isolate`.

Attacks here and there take turns. Seconds are those of the processor, of all processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import run_in_turn
from benchmarks._rows import Row, median_row, share
from benchmarks._victims import send_update, world_of
from fedsim.core import seeding
from fedsim.core.types import Knowledge, Observation, Reconstruction
from fedsim.processes import packing
from fedsim.processes.methods import Start, search, start_in_process
from fedsim.processes.subprocess_runner import start_in_subprocess
from fedsim.scenario import AttackChoice
from fedsim.threat.observe import observe

_FEW, _ALL = 5, 15
_STEPS = 5  # of an attack
_KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics")
_MODELS = {
    "MLP 2 x 256, digits": ({"name": "digits"}, {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.25}),
    "ResNet-18, digits": ({"name": "digits"}, {"name": "resnet18"}),
}


class _Timed(NamedTuple):
    seconds: float  # of the processor, from the start of a process to its end
    guess: Reconstruction


@experiment("isolation", minutes=1, page="benchmarks/README")
def isolation(budget: Budget) -> Cells:
    """Return a cell for each model."""
    return {name: partial(_model_rows, name, _ALL if budget.full else _FEW) for name in _MODELS}


def _model_rows(name: str, repeats: int) -> Iterator[Row]:
    observation = _observation(name)
    yield median_row("observation, serialised", name, [len(packing.serialise_value(observation)) / 1e6], "MB")
    here, apart = run_in_turn(
        [partial(_time_attack, how) for how in (start_in_process, start_in_subprocess)], [observation] * repeats
    )
    added = [there.seconds - at_home.seconds for at_home, there in zip(here, apart, strict=True)]
    yield median_row("seconds that a process of its own adds to an attack", name, added, "s")
    same = [float(torch.equal(a.guess.inputs, b.guess.inputs)) for a, b in zip(here, apart, strict=True)]
    yield share("guesses of the same bits", name, same, ">= 1")


def _observation(name: str) -> Observation:
    data, model = _MODELS[name]
    tables = {"seed": 1, "data": data, "model": model, "federation": {"clients": 2, "batch_size": 4}}
    return observe(send_update(world_of(tables)), _KNOWS)


def _time_attack(how: Start, observation: Observation) -> _Timed:
    settings = {"max_iterations": _STEPS, "threshold": 0.0, "patience": _STEPS}
    choice = AttackChoice.model_validate({"name": "inverting-gradients", **settings})
    begin = sum(os.times()[:4])
    with how(choice, lambda: False) as attacker:
        guesses = search(attacker, [observation], [seeding.generator(1, "attack")])
    if isinstance(guesses, str):
        raise RuntimeError(guesses)
    return _Timed(sum(os.times()[:4]) - begin, guesses[0])
