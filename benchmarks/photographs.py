"""Photographs of 224 x 224 pixels from single gradients of ViT-B/16 with dropout, labels inferred, by `auto`.

Without ``--full``: 2 of foolbox's ImageNet photographs. With it: 10. Untrained weights, dropout 0.25 at all 49 places.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._reconstructing import reconstruct_batch
from benchmarks._rows import Row, median_row, share
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
        batch = data.train.select(torch.tensor([number]))
        guess, taken = reconstruct_batch(partial(vit_b16, VitB16Config(), data.spec), batch, data.spec, number)
        seconds.append(taken)
        pixels, original = to_pixels(guess.inputs, data.spec), to_pixels(batch.inputs, data.spec)
        close.append(float(psnr(pixels, original)))
        exact.append(float(exact_pixels(pixels, original)))
        right.append(float(bool((guess.labels == batch.labels).all())))
    return [
        share("exact", SETTING, exact, ">= 0.9"),
        share("label right", SETTING, right, ">= 0.9"),
        median_row("PSNR", SETTING, close, "dB", ">= 60"),
        median_row("processor seconds of the attack", SETTING, seconds, "s"),
    ]
