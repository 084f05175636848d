"""569 tumours with 30 measurements each from scikit-learn; the label is malignant or benign.

Source: Wolberg, Mangasarian, Street 1995, UCI, Breast Cancer Wisconsin (Diagnostic) (no arXiv id). A row has 30
unknowns, far fewer than a useful model has parameters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset
from fedsim.data._attributes import split_at_median
from fedsim.data._shipped import require_package_file
from fedsim.data._tables import split_rows, standardise_table

_MEASURED = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry",
    "fractal dimension",
)  # fmt: skip
_COLUMNS = tuple(f"{kind} {name}" for kind in ("mean", "error of", "worst") for name in _MEASURED)


class BreastCancerConfig(Config):
    """Settings of breast-cancer."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the rows for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the rows' order; not the scenario's seed")


@dataset("breast-cancer", summary="569 tumours of 30 numbers from scikit-learn: a table", extra="data")
def breast_cancer(config: BreastCancerConfig) -> Dataset:
    """Load the rows, each column with mean 0 and standard deviation 1 over the training rows.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    table = np.loadtxt(_file(), delimiter=",", skiprows=1)
    rows, labels = torch.from_numpy(table[:, :-1]).float(), torch.from_numpy(table[:, -1].astype(np.int64))
    data = standardise_table(
        *split_rows(Batch(rows, labels), config.test_fraction, config.seed), ("malignant", "benign")
    )
    parts = zip(data.train.inputs.T, data.test.inputs.T, strict=True)
    columns = {name: split_at_median(part) for name, part in zip(_COLUMNS, parts, strict=True)}
    return replace(data, attributes=columns)


def _file() -> Path:
    owner = "scikit-learn, which holds the data set 'breast-cancer',"
    return require_package_file(
        "sklearn", "datasets/data/breast_cancer.csv", owner, "pip install 'fedsim-privacy[data]'"
    )
