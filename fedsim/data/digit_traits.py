"""The digits of scikit-learn, 8x8 grey, with five traits of each number as multi-label targets.

Source: as data set digits. Traits: even, prime, square, above four, and whether the usual glyph has a closed loop
(0, 6, 8, 9).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset
from fedsim.data._digits import load_digits
from fedsim.data._images import ImageConfig

_TRAITS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "square": {0, 1, 4, 9},
    "above four": {5, 6, 7, 8, 9},
    "loop": {0, 6, 8, 9},
}


class DigitTraitsConfig(Config):
    """Settings of digit-traits."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every digit for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the examples' order; not the scenario's seed")


@dataset("digit-traits", summary="digits of 8x8 pixels with five traits each, of which several may hold", extra="data")
def digit_traits(config: DigitTraitsConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    data = load_digits(ImageConfig(seed=config.seed), config.test_fraction)
    train, test = (Batch(part.inputs, traits_of(part.labels)) for part in (data.train, data.test))
    spec = replace(data.spec, classes=len(_TRAITS))
    return replace(data, train=train, test=test, spec=spec, class_names=tuple(_TRAITS), task="multi-label")


def traits_of(numbers: Tensor) -> Tensor:
    """Return the traits of digits as 0 or 1, float32, shape (N, 5)."""
    table = torch.tensor([[float(digit in having) for having in _TRAITS.values()] for digit in range(10)])
    return table[numbers]
