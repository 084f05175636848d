"""How near is an iteration of dropout-inversion to the least time that this core needs for its products of matrices?

The least time is the roofline's: of every product the longer of its operations at the core's highest rate and its bytes
at the rate of memory outside the core's own cache, both measured beside it. The rest is element-wise work, dispatch and
Python. Seconds are those of the processor, one thread. About two minutes on a quiet core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import timed
from benchmarks._rows import Row, median_row
from benchmarks._victims import DIGITS, PHOTOGRAPHS, Victim, make_attack, victims_of
from fedsim.core import seeding
from fedsim.core.foreign import pytorch
from fedsim.core.types import Step

_CASES: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any], tuple[int, ...], int], ...] = (
    ("MLP, MNIST, p = 0.25", DIGITS, {"name": "mlp", "dropout": 0.25}, (1, 8, 32), 100),
    ("small ViT, CIFAR-10, p = 0.25", PHOTOGRAPHS, {"name": "vit-small", "dropout": 0.25}, (1, 8), 20),
)
_SETTLING = 5
_SIDE = 1024  # of the matrices whose product gives the core's rate
_IN_SHARED_CACHE = 1 << 22  # numbers: more than a core's own cache holds, less than what all cores share
_KNOWS = ("batch-size", "dropout-rates", "input-statistics", "labels")


class Rates(NamedTuple):
    """Of this core: operations and bytes a second."""

    operations: float
    bytes: float


class Products(pytorch.TorchDispatchMode):
    """Adds up the least time of all products of matrices while it is active.

    Attributes:
        operations: multiplications and additions.
        seconds: the least time.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self._rates = rates
        self.operations = 0.0
        self.seconds = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            operations = float(count(*args, **(kwargs or {}), out_val=result))
            tensors = [leaf for leaf in pytorch.tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.operations += operations
            self.seconds += max(operations / self._rates.operations, moved / self._rates.bytes)
        return result


@experiment("roofline", minutes=2, page="benchmarks/attacks")
def roofline(budget: Budget) -> Cells:
    """Return a cell for each model."""
    return {case[0]: partial(_rows, *case, 7 if budget.full else 3) for case in _CASES}


def _rows(
    setting: str,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    together: tuple[int, ...],
    iterations: int,
    passes: int,
) -> Iterator[Row]:
    rates = core_rates()
    rate = f"this core, before {setting}"
    yield median_row("products of matrices, highest rate", rate, [rates.operations / 1e9], "GFLOP/s")
    yield median_row("reading outside the core's cache", rate, [rates.bytes / 1e9], "GB/s")
    victims = list(victims_of(data, model, max(together), knows=_KNOWS))
    for count in together:
        yield from _iteration_rows(f"{setting}, {count} at once", victims[:count], rates, iterations, passes)


def _iteration_rows(
    setting: str, victims: Sequence[Victim], rates: Rates, iterations: int, passes: int
) -> Iterator[Row]:
    short, long = (_products(victims, rates, count) for count in (2, 3))
    least = 1000.0 * (long.seconds - short.seconds) / len(victims)
    operations = (long.operations - short.operations) / len(victims) / 1e9
    times = [1000.0 * _seconds_an_iteration(victims, iterations) / len(victims) for _ in range(passes)]
    yield median_row("products of an iteration of one victim", setting, [operations], "GFLOP", "")
    yield median_row("their least time", setting, [least], "ms", "")
    yield median_row("iteration of one victim", setting, times, "ms", "")
    shares = [100.0 * least / seconds for seconds in times]
    yield median_row("share of the roofline", setting, shares, "%")


def core_rates() -> Rates:
    """Measure this core, the best of many tries each."""
    one, other = torch.randn(2, _SIDE, _SIDE)
    long = torch.ones(_IN_SHARED_CACHE)
    product, reading = (min(timed(work)[1] for _ in range(20)) for work in (lambda: one @ other, long.sum))
    return Rates(2.0 * _SIDE**3 / product, 4.0 * _IN_SHARED_CACHE / reading)


def _products(victims: Sequence[Victim], rates: Rates, iterations: int) -> Products:
    with Products(rates) as products:
        _attack(victims, iterations, lambda _step: None)
    return products


def _seconds_an_iteration(victims: Sequence[Victim], iterations: int) -> float:
    marks: list[float] = []
    _attack(victims, iterations, lambda _step: marks.append(time.process_time()))
    return (marks[-1] - marks[_SETTLING]) / (len(marks) - 1 - _SETTLING)


def _attack(victims: Sequence[Victim], iterations: int, on_step: Callable[[Step], None]) -> None:
    attack = make_attack("dropout-inversion", max_iterations=iterations, threshold=0.0, patience=1_000_000)
    generators = [seeding.generator(1, "attack", index) for index in range(len(victims))]
    others = [lambda _step: None for _ in victims[1:]]
    attack.together([victim.observation for victim in victims], generators, [on_step, *others])
