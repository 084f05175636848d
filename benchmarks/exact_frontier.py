"""Exact attacks beyond dense first layers: a LeNet's images by second-order steps, a transformer's batches by zeros.

Labels are inferred, masks unknown, models untrained; seconds are those of one core. Without ``--full``: few victims a
setting (about ten minutes). With it: 10 victims a setting, and the largest batch of a transformer that is exact by
rate, width and patch (about two hours).
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from fedsim.core import process

process.prepare()

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from benchmarks import _patch_rows  # noqa: E402
from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks._victims import DIGITS, PHOTOGRAPHS, victims_of  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.metrics.image import score_items  # noqa: E402

SMALL: Mapping[str, Any] = {"name": "digits"}
_LENET = "benchmarks._frontier_models:lenet"
_ALL = 10
_EXACT, _EXACT_IN_BATCH = 80.0, 60.0  # dB


class Case(NamedTuple):
    """A setting: in words, what is attacked, victims of the short version, and what is asked for."""

    words: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    few: int
    batch_size: int = 1
    share: str = ">= 0.9"
    seconds: str = ""
    attack: str = "gauss-newton"


_RELU: Mapping[str, Any] = {"activation": "relu"}
_CONVNET: Mapping[str, Any] = {"name": "convnet", "width": 16, "dropout": 0.0}
CASES = (
    Case("sigmoid, MNIST", DIGITS, {}, 5, seconds="< 8"),
    *(Case(f"{own}, MNIST", DIGITS, {"activation": own}, 1) for own in ("tanh", "silu", "gelu", "softplus")),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 3),
    Case("sigmoid, CIFAR-10", PHOTOGRAPHS, {}, 2, seconds="< 40"),
    Case("sigmoid, MNIST", DIGITS, {}, 3, 2, ">= 0.8"),
    Case("sigmoid, dropout 0.5, MNIST", DIGITS, {"dropout": 0.5}, 1, 2, ""),
    Case("sigmoid, MNIST", DIGITS, {}, 1, 4, ">= 0.8"),
    Case("ReLU, digits", SMALL, _RELU, 5, share=""),
    Case("ReLU, MNIST of 14 x 14 pixels", {**DIGITS, "size": 14}, _RELU, 2, share=""),
    Case("ReLU, dropout 0.5, digits", SMALL, {**_RELU, "dropout": 0.5}, 3, share=""),
    Case("ReLU, digits", SMALL, _RELU, 2, 2, ""),
    Case("convnet in place of LeNet, ReLU, digits", SMALL, _CONVNET, 2, share=""),
    Case("ReLU, digits", SMALL, _RELU, 5, share="", attack="copa"),
    Case("ReLU, MNIST", DIGITS, _RELU, 3, share="", attack="copa"),
    Case("convnet in place of LeNet, ReLU, digits", SMALL, _CONVNET, 3, share="", attack="copa"),
)


def measure(full: bool) -> Sequence[Row]:
    """Return the rows of the short or the long version."""
    torch.set_num_threads(1)
    found = [row for case in CASES for row in _rows(case, _ALL if full else case.few)]
    return [*found, *_patch_rows.measure(full)]


def _rows(case: Case, victims: int) -> Iterator[Row]:
    setting = f"{case.attack}, LeNet, {case.words}, B = {case.batch_size}"
    psnr, seconds, steps = zip(*_attack(case, victims), strict=True)
    bound = _EXACT if case.batch_size == 1 else _EXACT_IN_BATCH
    exact = [float(worst > bound) for worst in psnr]
    name = f"updates with every image > {bound:g} dB"
    yield measured(name, setting, exact, "share", case.share, value=statistics.mean(exact))
    yield measured("worst PSNR of an update", setting, psnr, "dB", "")
    yield measured("steps", setting, steps, "steps", "")
    yield measured("processor seconds an update", setting, seconds, "s", case.seconds)


def _attack(case: Case, victims: int) -> Iterator[tuple[float, float, float]]:
    """Yield the worst PSNR of each victim, the processor seconds and the steps that its attack took."""
    method = registry.get("attack", case.attack)
    model = {"name": _LENET, **case.model}
    for number, victim in enumerate(victims_of(case.data, model, victims, batch_size=case.batch_size)):
        begin = time.process_time()
        guess = method.make(method.config())(victim.observation, seeding.generator(1, "attack", number))
        seconds = time.process_time() - begin
        worst = min(item.values["psnr"] for item in score_items(guess, victim.batch, victim.spec).items)
        yield worst, seconds, float(guess.iterations)


if __name__ == "__main__":
    main(measure, __doc__ or "")
