"""Exact attacks straight through dropout: PSNR of single images by whatever `auto` chooses, and of whole batches.

Labels are not given. Without ``--full``: 4 single images and 4 batches a setting. With it: 20 photographs, 64
digits and 10 batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks._budget import EXACT, attack_each
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, least, mean_row, median_row, share
from benchmarks._victims import DIGITS, PHOTOGRAPHS, make_attack, victims_of

_RATES = (0.0, 0.1, 0.25, 0.5)
_MODELS = {
    "MLP without bias": {"name": "mlp"},
    "MLP with bias": {"name": "mlp", "bias": True},
    "small ViT": {"name": "vit-small"},
}
_CLIENTS, _DIGITS = 20, 4000  # in the training set
_MEDIAN, _WORST = 100.0, 80.0  # dB
_SIZES = {0.5: (8, 16, 32, 64), 0.25: (8, 16, 32), 0.1: (4,)}
_LARGE = 64


@experiment("exact-attacks", minutes=3, page="attacks/exact")
def exact_attacks(budget: Budget) -> Cells:
    """Return a cell for each network and data set, and one for each kind of batches."""
    photographs, digits, batches = (20, 64, 10) if budget.full else (4, 4, 4)
    return {
        **{f"CIFAR-10, {name}": partial(_single_images, name, PHOTOGRAPHS, photographs) for name in _MODELS},
        **{f"MNIST, {name}": partial(_single_images, name, DIGITS, digits) for name in _MODELS},
        **{f"batches, p = {rate:g}": partial(_batches, rate, batches) for rate in _SIZES},
        "batches without dropout": partial(_batches_without_dropout, batches),
    }


def _single_images(name: str, data: Mapping[str, Any], victims: int) -> Iterator[Row]:
    images = "CIFAR-10" if data is PHOTOGRAPHS else "MNIST"
    for rate in _RATES:
        outcomes = attack_each(make_attack("auto"), victims_of(data, {**_MODELS[name], "dropout": rate}, victims))
        psnr, seconds = [one.worst for one in outcomes], [1000.0 * one.seconds for one in outcomes]
        setting = f"auto, {name}, {images}, p = {rate:g}, B = 1"
        yield median_row("PSNR", setting, psnr, "dB", f"> {_MEDIAN:g}")
        yield least("worst PSNR", setting, psnr, "dB", f"> {_WORST:g}")
        yield median_row("processor time of an attack", setting, seconds, "ms")


def _batches(rate: float, victims: int) -> Iterator[Row]:
    for size in _SIZES[rate]:
        setting = f"MLP without bias, MNIST, p = {rate:g}, B = {size}"
        seconds = "< 15" if size >= _LARGE else "< 5"
        yield from batch_rows("sparse-dictionary", {"name": "mlp", "dropout": rate}, size, setting, seconds, victims)


def _batches_without_dropout(victims: int) -> Iterator[Row]:
    """Yield the same where no dropout helps: ReLU's own zeros, or none at all."""
    relu = {"name": "mlp", "dropout": 0.0, "activation": "relu"}
    setting = "ReLU MLP without bias, MNIST, p = 0, B = 24"
    yield from batch_rows("sparse-dictionary", relu, 24, setting, "< 60", victims, ">= 0.8")
    for size in (8, 16, 32):
        setting = f"MLP without bias, MNIST, p = 0, B = {size}"
        model = {"name": "mlp", "dropout": 0.0}
        yield from batch_rows("span-intersection", model, size, setting, "< 60", victims, ">= 0.8")


def batch_rows(
    attack: str, model: Mapping[str, Any], size: int, setting: str, seconds: str, victims: int, must: str = ">= 0.9"
) -> Iterator[Row]:
    """Yield what an attack comes to on whole batches of digits."""
    seen = victims_of(DIGITS, model, victims, batch_size=size, clients=min(_CLIENTS, _DIGITS // size))
    outcomes = attack_each(make_attack(attack), seen)
    setting = f"{attack}, {setting}"
    yield share(EXACT, setting, [float(one.is_exact) for one in outcomes], must)
    yield mean_row("labels right", setting, [one.labels for one in outcomes], "share")
    yield median_row("worst PSNR of an update", setting, [one.worst for one in outcomes], "dB")
    yield median_row("processor time of a batch", setting, [one.seconds for one in outcomes], "s", seconds)
