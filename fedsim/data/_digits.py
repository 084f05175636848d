"""Load the handwritten digits of scikit-learn, for all data sets based on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from fedsim.core.types import Dataset
from fedsim.data._facts import DIGITS
from fedsim.data._images import ImageConfig, images_from_arrays, normalise, split
from fedsim.data._shipped import require_package_file


def load_digits(config: ImageConfig, test_fraction: float) -> Dataset:
    """Return the digits, with their classes as labels.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    rows = _read(_file())
    levels, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return normalise(config, *split(images_from_arrays(pixels, labels), test_fraction, config.seed), DIGITS)


@cache
def _read(path: Path) -> np.ndarray:
    """Return the 64 levels and the label of each digit, shape (1797, 65). Reading needs 20 ms."""
    return np.loadtxt(path, delimiter=",")


def _file() -> Path:
    owner = "scikit-learn, which holds the data set 'digits',"
    return require_package_file("sklearn", "datasets/data/digits.csv.gz", owner, "pip install 'fedsim-privacy[data]'")
