"""Exact attacks, with labels that are not given: single images by whatever `auto` chooses, and whole batches."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks._rows import Row, measured
from benchmarks._victims import DIGITS, PHOTOGRAPHS, Victim, victims_of
from fedsim.core import registry, seeding
from fedsim.core.hooks import Attack
from fedsim.metrics.image import score_items
from fedsim.metrics.missing import complete

_RATES = (0.0, 0.1, 0.25, 0.5)
_MODELS = {
    "MLP without bias": {"name": "mlp"},
    "MLP with bias": {"name": "mlp", "bias": True},
    "small ViT": {"name": "vit-small"},
}
_MEDIAN, _WORST, _EXACT = 100.0, 80.0, 60.0  # dB
_SIZES = {0.5: (8, 16, 32, 64), 0.25: (8, 16, 32), 0.1: (4,)}
_LARGE = 64
_BATCHES = 10


def single_images() -> Iterator[Row]:
    """Yield the PSNR and the time of `auto` on batches of one."""
    for images, data, number in (("CIFAR-10", PHOTOGRAPHS, 20), ("MNIST", DIGITS, 64)):
        for name, model in _MODELS.items():
            for rate in _RATES:
                results = list(_attacked("auto", victims_of(data, {**model, "dropout": rate}, number)))
                psnr, seconds = [worst for worst, _ in results], [1000.0 * taken for _, taken in results]
                setting = f"{name}, {images}, p = {rate:g}, B = 1"
                yield _psnr_row(setting, psnr)
                yield measured("auto: milliseconds an attack", setting, seconds, "ms", "< 50")


def batches() -> Iterator[Row]:
    """Yield the share of batches that are exact through dropout, and the time they take."""
    for rate, sizes in _SIZES.items():
        for size in sizes:
            setting = f"MLP without bias, MNIST, p = {rate:g}, B = {size}"
            seconds = "< 15" if size >= _LARGE else "< 5"
            yield from _batch_rows("sparse-dictionary", {"name": "mlp", "dropout": rate}, size, setting, seconds)


def batches_without_dropout() -> Iterator[Row]:
    """Yield the same where no dropout helps: ReLU's own zeros, or none at all."""
    relu = {"name": "mlp", "dropout": 0.0, "activation": "relu"}
    setting = "ReLU MLP without bias, MNIST, p = 0, B = 24"
    yield from _batch_rows("sparse-dictionary", relu, 24, setting, "< 60", share=">= 0.8")
    if "span-intersection" not in registry.methods("attack"):
        print("skipped: there is no attack 'span-intersection'", file=sys.stderr)
        return
    for size in (8, 16, 32):
        setting = f"MLP without bias, MNIST, p = 0, B = {size}"
        model = {"name": "mlp", "dropout": 0.0}
        yield from _batch_rows("span-intersection", model, size, setting, "< 60", share=">= 0.8")


def _batch_rows(
    attack: str, model: Mapping[str, Any], size: int, setting: str, seconds: str, share: str = ">= 0.9"
) -> Iterator[Row]:
    results = list(_attacked(attack, victims_of(DIGITS, model, _BATCHES, batch_size=size)))
    exact = [float(worst > _EXACT) for worst, _ in results]
    name = f"{attack}: batches with every image > {_EXACT:g} dB"
    yield measured(name, setting, exact, "share", share, value=statistics.mean(exact))
    yield measured(f"{attack}: worst PSNR of a batch", setting, [worst for worst, _ in results], "dB", "")
    yield measured(f"{attack}: seconds a batch", setting, [taken for _, taken in results], "s", seconds)


def _attacked(name: str, victims: Iterable[Victim]) -> Iterator[tuple[float, float]]:
    """Yield the worst PSNR of each victim, and the seconds that its attack took."""
    method = registry.get("attack", name)
    for number, victim in enumerate(victims):
        attack: Attack[Any] = method.make(method.config())
        begin = time.process_time()
        guess = attack(victim.observation, seeding.generator(1, "attack", number))
        seconds = time.process_time() - begin
        whole = complete(guess, len(victim.batch))
        yield min(item.values["psnr"] for item in score_items(whole, victim.batch, victim.spec).items), seconds


def _psnr_row(setting: str, psnr: list[float]) -> Row:
    """Hold the median and the worst of single images to their bounds."""
    must = f"median > {_MEDIAN:g}, worst > {_WORST:g}"
    median = statistics.median(psnr)
    held = median > _MEDIAN and min(psnr) > _WORST
    return Row("auto: PSNR", setting, median, "dB", min(psnr), median, max(psnr), len(psnr), must, held)
