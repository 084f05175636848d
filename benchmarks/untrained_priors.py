"""Priors that nobody trained: an untrained network that makes the images, and masks that are decided.

Single gradients at fresh weights, labels granted. On photographs `deep-image-prior` stands beside `dropout-inversion`
with two weights of total variation; on digits `dropout-inversion` stands beside itself with two weights of the prior
`entropy`. All get as many iterations. PSNR in dB, means with 95 % intervals over victims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row
from benchmarks._victims import DIGITS, KNOWN, PHOTOGRAPHS, Victim, make_attack, victims_of
from fedsim.core import seeding
from fedsim.metrics.image import score_items

_ITERATIONS = 500
Search = tuple[str, Mapping[str, Any]]
_DESCENT: Mapping[str, Any] = {"schedule": "cosine", "first_masks": "mean"}


def _with_priors(**weights: float) -> Search:
    priors = [{"name": name.replace("_", "-"), "weight": weight} for name, weight in weights.items()]
    return "dropout-inversion", {**_DESCENT, "priors": priors}


IMAGES: Mapping[str, Search] = {
    "total variation 1e-4": _with_priors(total_variation=1e-4),
    "total variation 1e-2": _with_priors(total_variation=1e-2),
    "deep-image-prior": ("deep-image-prior", {}),
}
MASKS: Mapping[str, Search] = {
    "no entropy": _with_priors(total_variation=1e-5),
    "entropy 1e-3": _with_priors(total_variation=1e-5, entropy=1e-3),
    "entropy 1e-2": _with_priors(total_variation=1e-5, entropy=1e-2),
}


@experiment("untrained-priors", minutes=5, page="attacks/learned-prior")
def untrained_priors(budget: Budget) -> Cells:
    """Return a cell for images and dropout rates, and one for masks."""
    victims, cells = 16 if budget.full else 8, dict[str, Any]()
    for rate in (0.0, 0.25):
        lenet = {"name": "lenet", "dropout": rate}
        cells[f"LeNet, CIFAR-10, p = {rate:g}"] = partial(_rows, PHOTOGRAPHS, lenet, victims, 1, IMAGES)
    for rate in (0.25, 0.5):
        mlp = {"name": "mlp", "width": 128, "depth": 2, "dropout": rate}
        cells[f"MLP, MNIST, p = {rate:g}, B = 4"] = partial(_rows, DIGITS, mlp, victims, 4, MASKS)
    return {name: partial(cell, name) for name, cell in cells.items()}


def _rows(
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    count: int,
    batch_size: int,
    searches: Mapping[str, Search],
    setting: str,
) -> Iterator[Row]:
    victims = list(victims_of(data, model, count, batch_size=batch_size, knows=(*KNOWN, "labels")))
    for label, (name, settings) in searches.items():
        yield mean_row(f"PSNR, {label}", setting, _psnr(name, settings, victims), "dB")


def _psnr(name: str, settings: Mapping[str, Any], victims: Sequence[Victim]) -> list[list[float]]:
    """Return the PSNR of each victim's images."""
    attack = make_attack(name, max_iterations=_ITERATIONS, **settings)
    sources = [seeding.generator(number, "attack") for number in range(len(victims))]
    guesses = attack.together([victim.observation for victim in victims], sources, [lambda _step: None] * len(victims))
    pairs = zip(guesses, victims, strict=True)
    return [[item.values["psnr"] for item in score_items(guess, v.batch, v.spec).items] for guess, v in pairs]
