"""Batches of up to 250 images through dropout, and what zeros of ReLU give away beside SPEAR.

Untrained perceptrons, MNIST, labels and masks unknown; seconds are those of one core. Without ``--full``: 5 batches a
setting. With it: 10. A batch of 250 takes three minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row
from benchmarks.exact_attacks import batch_rows

_WIDE = {128: 1024, 250: 2048}  # units, about eight an example
_RELU = (4, 8, 12, 16, 24)
_ALL, _FEW = 10, 5


@experiment("large-batches", minutes=22, page="attacks/exact")
def large_batches(budget: Budget) -> Cells:
    """Return a cell for each batch size through dropout, and one of ReLU."""
    victims = _ALL if budget.full else _FEW
    wide = {f"p = 0.5, B = {size}": partial(_wide, size, width, victims) for size, width in _WIDE.items()}
    return {"ReLU beside SPEAR": partial(_relu, victims), **wide}


def _wide(size: int, width: int, victims: int) -> Iterator[Row]:
    model = {"name": "mlp", "bias": True, "width": width, "dropout": 0.5}
    setting = f"MLP with bias, {width} units, MNIST, p = 0.5, B = {size}"
    yield from batch_rows("sparse-dictionary", model, size, setting, "", victims)


def _relu(victims: int) -> Iterator[Row]:
    model = {"name": "mlp", "dropout": 0.0, "activation": "relu"}
    for size in _RELU:
        for attack in ("spear", "sparse-dictionary"):
            setting = f"ReLU MLP without bias, MNIST, p = 0, B = {size}"
            yield from batch_rows(attack, model, size, setting, "", victims, "")
