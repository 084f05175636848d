"""1,797 handwritten digits of 8x8 grey pixels with 17 levels, from scikit-learn.

Source: Alpaydin, Kaynak 1998, UCI (no arXiv id). An image of 64 pixels has fewer unknowns than a useful model has
parameters, so use this set for fast runs, not to judge a defense.
"""

from __future__ import annotations

from pydantic import Field

from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._attributes import with_parity
from fedsim.data._digits import load_digits
from fedsim.data._images import ImageConfig


class DigitsConfig(ImageConfig):
    """Settings of digits."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every class for the test set")


@dataset("digits", summary="1,797 digits from scikit-learn, 8x8 grey: for fast runs", extra="data")
def digits(config: DigitsConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    return with_parity(load_digits(config, config.test_fraction))
