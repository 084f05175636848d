"""The digits of scikit-learn, 8x8 grey, with pixel classes: background, ink of an even digit, ink of an odd digit.

Source: as data set digits. Ink is every pixel that is at least half black.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset, InputSpec
from fedsim.data._digits import load_digits
from fedsim.data._images import ImageConfig

_NAMES = ("background", "even", "odd")


class DigitMasksConfig(Config):
    """Settings of digit-masks."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every digit for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the examples' order; not the scenario's seed")


@dataset("digit-masks", summary="digits of 8x8 pixels with a class for every pixel", extra="data")
def digit_masks(config: DigitMasksConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    data = load_digits(ImageConfig(seed=config.seed), config.test_fraction)
    spec = replace(data.spec, classes=len(_NAMES))
    train, test = (Batch(part.inputs, _masks(part, spec)) for part in (data.train, data.test))
    return replace(data, train=train, test=test, spec=spec, class_names=_NAMES, task="segmentation")


def _masks(batch: Batch, spec: InputSpec) -> Tensor:
    """Return the class of every pixel, int64, shape (N, 8, 8)."""
    is_ink = batch.inputs[:, 0] * spec.std[0] + spec.mean[0] >= 0.5  # noqa: PLR2004 - half black
    return torch.where(is_ink, 1 + (batch.labels % 2)[:, None, None], 0)
