"""1,797 handwritten digits of 8x8 grey pixels with 17 levels, as they ship inside scikit-learn.

Source: Alpaydin, Kaynak 1998, UCI (no arXiv id). What it may leak: with 64 pixels an image has fewer unknowns
than any useful model has parameters, so this set is for fast runs, not for judging a defense.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from fedsim.data._facts import DIGITS
from fedsim.data._images import ImageConfig, in_memory, normalised, split
from fedsim.errors import MissingExtra
from fedsim.registry import dataset
from fedsim.types import Dataset


class DigitsConfig(ImageConfig):
    """Settings of digits."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every class that is kept for testing")


@dataset("digits", summary="1,797 digits from scikit-learn, 8x8 grey: for fast runs", extra="data")
def digits(config: DigitsConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "scikit-learn, which holds the data set 'digits',", "pip install 'fedsim-privacy[data]'"
        ) from error
    levels, labels = map(np.asarray, load_digits(return_X_y=True))
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return normalised(config, *split(in_memory(pixels, labels), config.test_fraction, config.seed), DIGITS)
