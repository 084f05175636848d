"""How much later `auto` answers than the closed form that applies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks._experiments import Cells
from benchmarks._rows import Row, measured
from benchmarks._victims import DIGITS, PHOTOGRAPHS, victims_of
from fedsim.core import registry, seeding
from fedsim.core.types import Observation

_REPEATS = 5


class _Form(NamedTuple):
    attack: str
    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    batch_size: int = 1
    must: str = "< 50"


_MLP: Mapping[str, Any] = {"name": "mlp", "width": 256, "depth": 2, "dropout": 0.5}
_LENET: Mapping[str, Any] = {"name": "benchmarks._frontier_models:lenet"}
FORMS = (
    _Form("closed-form-linear", "MLP of width 256, dropout 0.5, MNIST", DIGITS, _MLP),
    _Form("closed-form-vit", "vit-small, CIFAR-10", PHOTOGRAPHS, {"name": "vit-small", "dropout": 0.0}),
    _Form("r-gap", "LeNet with sigmoid, digits", {"name": "digits"}, {"name": "benchmarks._frontier_models:lenet"}),
    _Form("copa", "LeNet with ReLU, digits", {"name": "digits"}, {**_LENET, "activation": "relu"}),
    _Form("sparse-dictionary", "MLP of width 256, dropout 0.5, MNIST", DIGITS, _MLP, 4),
)


def gap_cells() -> Cells:
    """Return a cell for each closed form."""
    return {f"auto less {form.attack}": partial(_gap, form) for form in FORMS}


def _gap(form: _Form) -> Iterator[Row]:
    """Yield the processor milliseconds of `auto` less those of the attack that answers."""
    setting = f"auto less {form.attack}, {form.words}, B = {form.batch_size}"
    (victim,) = victims_of(form.data, form.model, 1, batch_size=form.batch_size)
    _time("auto", victim.observation)  # what is loaded once does not count
    gaps = [_time("auto", victim.observation) - _time(form.attack, victim.observation) for _ in range(_REPEATS)]
    yield measured("processor milliseconds", setting, gaps, "ms", form.must)


def _time(name: str, observation: Observation) -> float:
    """Return the processor milliseconds to an answer, which must be exact."""
    method = registry.get("attack", name)
    attack = method.make(method.config())
    begin = time.process_time()
    guess = attack(observation, seeding.generator(1, "attack"))
    milliseconds = 1e3 * (time.process_time() - begin)
    if not guess.is_exact:
        raise RuntimeError(f"{name} gave no exact answer: {guess.stopped}")
    return milliseconds
