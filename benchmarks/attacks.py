"""How fast are attacks that descend, side by side with others?

Beside them: a literal Dropout Inversion Attack (`benchmarks._literal_dia`) and the package breaching in an environment
of its own. Seconds are those of the processor; ratios are of runs that alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks import _breaching_rows, _descent_rows
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row
from benchmarks._watch import Goal

Settings = dict[str, Any]

# Settings of dropout-inversion on each model, where the yardstick has the published ones.
TRANSFORMER: Settings = {
    "read_out": True,
    "schedule": "cosine",
    "first_masks": "mean",
    "mask_learning_rate": 0.2,
    "sign": "soft",
    "max_iterations": 300,
}
SMOOTH = [{"name": "total-variation", "weight": 1e-2}]
LENET: Settings = {"sign": "soft", "schedule": "cosine", "priors": SMOOTH, "max_iterations": 1000}
RESNET: Settings = {"sign": "soft", "schedule": "cosine", "priors": SMOOTH}
# Settings of inverting-gradients beside breaching.
INVERTING: Settings = {"schedule": "cosine", "sign": "soft", "max_iterations": 400}


@experiment("attacks", minutes=10, page="benchmarks/attacks")
def attacks(budget: Budget) -> Cells:
    """Return a cell for each comparison."""
    return {name: partial(measure, budget.full) for name, measure in PARTS.items()}


def _iterations(full: bool) -> Iterator[Row]:
    yield from _descent_rows.iterations_of_mlp(_passes(full))
    yield from _descent_rows.iterations_of_transformer(_passes(full))


def _times(full: bool) -> Iterator[Row]:
    victims = 4 if full else 1
    transformer = {"name": "vit-small", "dropout": 0.25}
    good, cap = Goal("mse", 0.01), 2000
    setting = "small ViT, CIFAR-10, p = 0.25, B = 1"
    yield from _descent_rows.time_to_image(setting, transformer, good, TRANSFORMER, victims, cap, ">= 10")
    lenet, alike, cap = {"name": "lenet", "dropout": 0.5}, Goal("ssim", 0.9), 10_000 if full else 3000
    setting = "LeNet, CIFAR-10, p = 0.5, B = 1"
    yield from _descent_rows.time_to_image(setting, lenet, alike, LENET, victims, cap, ">= 5")
    resnet, iterations = {"name": "resnet18", "dropout": 0.5}, 600 if full else 60
    setting = "ResNet-18 with GroupNorm, CIFAR-10, p = 0.5, B = 1"
    yield _descent_rows.ssim_at_equal_time(setting, resnet, RESNET, victims, iterations)
    yield _descent_rows.restarts(_passes(full))


def _breaching(full: bool) -> Iterator[Row]:
    victims, iterations = (3, 2400) if full else (1, 300)
    # On the transformer both spend half of an iteration on the same products of matrices.
    for name, model, least in (("MLP without bias", "mlp", ">= 5"), ("small ViT", "vit-small", ">= 4")):
        setting = f"{name}, CIFAR-10, p = 0, B = 1"
        yield from _breaching_rows.beside_breaching(
            setting, {"name": model, "dropout": 0.0}, INVERTING, victims, iterations, least
        )


def _passes(full: bool) -> int:
    return 5 if full else 3


PARTS: Mapping[str, Callable[[bool], Iterator[Row]]] = {
    "iterations": _iterations,
    "times": _times,
    "breaching": _breaching,
}
