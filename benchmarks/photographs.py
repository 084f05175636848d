"""Photographs of 224 x 224 pixels from single gradients of ViT-B/16 with dropout, labels inferred, by `auto`.

Without ``--full``: 2 of foolbox's ImageNet photographs. With it: 10. Untrained weights, dropout 0.25 at all 49 places.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch.nn.functional import cross_entropy

import fedsim
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, measured, share
from fedsim.core import seeding
from fedsim.data.foolbox_samples import FoolboxSamplesConfig, foolbox_samples
from fedsim.metrics.image import exact_pixels, psnr, to_pixels
from fedsim.models.vit_b16 import VitB16Config, vit_b16

SETTING = "ViT-B/16, p = 0.25, 224 x 224, B = 1"


@experiment("photographs", minutes=1, page="attacks/closed-form-vit")
def photographs(budget: Budget) -> Cells:
    """Return the one cell of the short or the long version."""
    return {SETTING: partial(_rows, 10 if budget.full else 2)}


def _rows(photographs: int) -> list[Row]:
    data = foolbox_samples(FoolboxSamplesConfig(collection="imagenet"))
    exact, close, right, seconds = [], [], [], []
    for number in range(photographs):
        image, label = data.train.inputs[number, None], data.train.labels[number, None]
        with seeding.isolate_randomness(number):
            model = vit_b16(VitB16Config(), data.spec).train()
            gradients = torch.autograd.grad(cross_entropy(model(image), label), list(model.parameters()))
        start = time.process_time()
        guess = fedsim.reconstruct(
            model,
            cross_entropy,
            gradients,
            shape=data.spec.shape,
            classes=data.spec.classes,
            mean=data.spec.mean,
            std=data.spec.std,
        )
        seconds.append(time.process_time() - start)
        pixels, original = to_pixels(guess.inputs, data.spec), to_pixels(image, data.spec)
        close.append(float(psnr(pixels, original)))
        exact.append(float(exact_pixels(pixels, original)))
        right.append(float(bool((guess.labels == label).all())))
    return [
        share("exact", SETTING, exact, ">= 0.9"),
        share("label right", SETTING, right, ">= 0.9"),
        measured("PSNR", SETTING, close, "dB", ">= 60"),
        measured("processor seconds of the attack", SETTING, seconds, "s"),
    ]
