"""1,797 handwritten digits of 8x8 grey pixels with 17 levels, which scikit-learn contains.

Source: Alpaydin, Kaynak 1998, UCI (no arXiv id). An image of 64 pixels has fewer unknowns than a useful model has
parameters, so use this set for fast runs, not to judge a defense.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from fedsim.core.registry import dataset
from fedsim.core.shipped import needed
from fedsim.core.types import Dataset
from fedsim.data._attributes import with_parity
from fedsim.data._facts import DIGITS
from fedsim.data._images import ImageConfig, in_memory, normalise, split


class DigitsConfig(ImageConfig):
    """Settings of digits."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every class for the test set")


@dataset("digits", summary="1,797 digits from scikit-learn, 8x8 grey: for fast runs", extra="data")
def digits(config: DigitsConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    rows = np.loadtxt(_file(), delimiter=",")
    levels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    parts = split(in_memory(pixels, labels), config.test_fraction, config.seed)
    return with_parity(normalise(config, *parts, DIGITS))


def _file() -> Path:
    """Return scikit-learn's file."""
    who = "scikit-learn, which holds the data set 'digits',"
    return needed("sklearn", "datasets/data/digits.csv.gz", who, "pip install 'fedsim-privacy[data]'")
