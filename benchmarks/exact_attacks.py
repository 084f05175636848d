"""Exact attacks straight through dropout: PSNR of single images in closed form, and of whole batches.

Without ``--full``: 4 victims a setting (about three minutes). With it: 20 single images, 10 batches.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks._rows import Row, main  # noqa: E402
from benchmarks._runs import arms_of  # noqa: E402
from fedsim.record import ArmRecord  # noqa: E402
from fedsim.scenario import parse  # noqa: E402

WORST = 60.0  # dB
RATES = [0.0, 0.1, 0.25, 0.5]
PHOTOGRAPHS = {"name": "foolbox-samples", "collection": "cifar10"}
DIGITS = {"name": "mnist5k"}


def measure(full: bool) -> Sequence[Row]:
    """Return the rows of the short or the long version."""
    return [*_single_images(20 if full else 4), *_batches(10 if full else 4)]


def _single_images(victims: int) -> Iterator[Row]:
    settings: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
        ("MLP without bias", {"name": "mlp"}, "closed-form-linear", PHOTOGRAPHS),
        ("MLP with bias", {"name": "mlp", "bias": True}, "closed-form-linear", PHOTOGRAPHS),
        ("small ViT", {"name": "vit-small"}, "closed-form-vit", PHOTOGRAPHS),
        ("MLP without bias", {"name": "mlp"}, "closed-form-linear", DIGITS),
        ("small ViT", {"name": "vit-small"}, "closed-form-vit", DIGITS),
    ]
    for name, model, attack, data in settings:
        images = "CIFAR-10" if data is PHOTOGRAPHS else "MNIST"
        arms = {"model.dropout": RATES}
        for arm in _run(data, model, attack, {"clients": 20, "batch_size": 1}, victims, arms):
            yield from _rows(f"{attack}, {name}, {images}, {arm.name}, B = 1", arm, must_median=100.0)


def _batches(victims: int) -> Iterator[Row]:
    for rate, sizes in {0.5: [8, 16, 32, 64], 0.25: [8, 16, 32], 0.1: [4, 8, 16], 0.0: [8, 16, 32]}.items():
        attack = "sparse-dictionary" if rate else "span-intersection"
        arms = {"model.dropout": [rate], "federation.batch_size": sizes}
        for arm in _run(DIGITS, {"name": "mlp"}, attack, {"clients": 20}, victims, arms):
            yield from _rows(f"{attack}, MLP without bias, MNIST, {arm.name}", arm, must_median=100.0)


def _run(
    data: dict[str, Any], model: dict[str, Any], attack: str, federation: dict[str, Any], victims: int, arms: Any
) -> tuple[ArmRecord, ...]:
    scenario = parse(
        {
            "title": "exact attacks",
            "seed": 5,
            "data": data,
            "model": model,
            "federation": federation,
            "threat": {"knows": ["batch-size", "dropout-rates", "input-statistics"], "victims": victims},
            "attacks": [{"name": attack}],
            "arms": arms,
        },
        "benchmark",
    )
    return arms_of(scenario)


def _rows(setting: str, arm: ArmRecord, must_median: float) -> Iterator[Row]:
    victims = [victim for victim in arm.attacks[0].victims if victim.scores]
    psnr = [item.values["psnr"] for victim in victims for item in victim.scores]
    worst, median = min(psnr), float(np.median(psnr))
    must = f"median > {must_median:g} dB, worst > {WORST:g}"
    holds = median > must_median and worst > WORST
    yield Row("PSNR", setting, median, "dB", worst, median, max(psnr), len(psnr), must, holds)
    seconds = [victim.seconds for victim in victims]
    middle = float(np.median(seconds))
    yield Row("time", setting, middle, "s", min(seconds), middle, max(seconds), len(seconds), "reported", True)


if __name__ == "__main__":
    main(measure, __doc__ or "")
