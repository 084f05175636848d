"""Presets of the package breaching beside the same settings here: PSNR of the same images after as many iterations.

Both search from N(0, 1), but draw it from generators of their own, so figures agree within the noise of the starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._programs import breaching_program, engine, store_victims, with_settings
from benchmarks._rows import Row, mean_row
from benchmarks._victims import PHOTOGRAPHS

_MODEL: Mapping[str, Any] = {"name": "lenet", "dropout": 0.0}
_VICTIMS = 8
_PIXELS = 3 * 32 * 32

# By preset of breaching: the attack here, its iterations, and breaching's settings in the words of this project.
# Breaching halves squared distances and norms, takes the mean of the latter, and its total variation meets zeros beyond
# the border.
_PRESETS: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "invertinggradients": (
        "inverting-gradients",
        1000,
        {
            "sign": "hard",
            "schedule": "steps",
            "priors": [{"name": "total-variation", "weight": 0.2, "border": "zeros"}],
        },
    ),
    "seethroughgradients": (
        "inverting-gradients",
        1000,
        {
            "sign": "off",
            "schedule": "cosine",
            "warm_up": 50,
            "langevin": 0.01,
            "distance": {"name": "squared", "weight": 0.5e-4},
            "priors": [
                {"name": "total-variation", "weight": 1e-4, "border": "zeros"},
                {"name": "squared-norm", "weight": 0.5e-6 / _PIXELS},
            ],
        },
    ),
    "deepleakage": ("dlg", 60, {"line_search": "none", "restarts": 0}),
}


@experiment("breaching-presets", minutes=10, page="benchmarks/attacks")
def breaching_presets(budget: Budget) -> Cells:
    """Return a cell for each preset."""
    return {preset: partial(_beside, preset) for preset in _PRESETS}


def _beside(preset: str) -> Iterator[Row]:
    attack, iterations, settings = _PRESETS[preset]
    theirs, ours, between = list[float](), list[float](), list[float]()
    with store_victims(PHOTOGRAPHS, _MODEL, _VICTIMS) as task, breaching_program() as peer, engine() as here:
        for victim in range(_VICTIMS):
            one = with_settings(task.model_copy(update={"victim": victim}), max_iterations=iterations)
            theirs.append(peer.ask(one.model_copy(update={"attack": preset})).psnr)
            ours.append(here.ask(with_settings(one.model_copy(update={"attack": attack}), **settings)).psnr)
            between.append(ours[-1] - theirs[-1])
    setting = f"{preset}, {iterations} iterations, LeNet, CIFAR-10, B = 1"
    yield mean_row("PSNR of breaching", setting, theirs, "dB")
    yield mean_row(f"PSNR of {attack}", setting, ours, "dB")
    yield mean_row("difference, image by image", setting, between, "dB")
