"""Photographs of 224 x 224 pixels from single gradients of ViT-B/16 with dropout, labels inferred, by `auto`.

Without ``--full``: 2 of foolbox's ImageNet photographs. With it: 10. Untrained weights, dropout 0.25 at all 49 places.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import torch  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

import fedsim  # noqa: E402
from benchmarks._rows import Row, main, measured  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.data.foolbox_samples import FoolboxSamplesConfig, foolbox_samples  # noqa: E402
from fedsim.metrics.image import exact_pixels, psnr, to_pixels  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402
from fedsim.models.vit_b16 import VitB16Config, vit_b16  # noqa: E402

SETTING = "ViT-B/16, p = 0.25, 224 x 224, B = 1"


def measure(full: bool) -> Sequence[Row]:
    """Return the rows of the short or the long version."""
    data = foolbox_samples(FoolboxSamplesConfig(collection="imagenet"))
    exact, close, right, seconds = [], [], [], []
    for number in range(10 if full else 2):
        image, label = data.train.inputs[number, None], data.train.labels[number, None]
        with seeding.isolate_randomness(number):
            model = vit_b16(VitB16Config(), data.spec).train()
            gradients = torch.autograd.grad(cross_entropy(model(image), label), list(model.parameters()))
        start = time.perf_counter()
        guess = fedsim.reconstruct(
            model,
            cross_entropy,
            gradients,
            shape=data.spec.shape,
            classes=data.spec.classes,
            mean=data.spec.mean,
            std=data.spec.std,
        )
        seconds.append(time.perf_counter() - start)
        pixels, original = to_pixels(guess.inputs, data.spec), to_pixels(image, data.spec)
        close.append(float(psnr(pixels, original)))
        exact.append(float(exact_pixels(pixels, original)))
        right.append(float(bool((guess.labels == label).all())))
    return [
        _share("exact", exact, ">= 0.9"),
        _share("label right", right, ">= 0.9"),
        measured("PSNR", SETTING, close, "dB", ">= 60"),
        measured("seconds of the attack", SETTING, seconds, "s", ""),
    ]


def _share(name: str, values: Sequence[float], must: str) -> Row:
    interval = wilson(sum(values), len(values))
    setting = f"{SETTING}, 95% interval {interval.low:.0%} to {interval.high:.0%}"
    return measured(name, setting, values, "of 1", must, sum(values) / len(values))


if __name__ == "__main__":
    main(measure, __doc__ or "")
