"""442 patients with ten measurements each from scikit-learn; the label is the disease progression after a year.

Source: Efron, Hastie, Johnstone, Tibshirani 2004, Annals of Statistics 32 (no arXiv id). The label is a number, so the
task is regression; it is standardised to mean 0 and standard deviation 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Config, Dataset
from fedsim.data._shipped import require_package_file
from fedsim.data._tables import split_rows, standardise_table


class DiabetesConfig(Config):
    """Settings of diabetes."""

    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the rows for the test set")
    seed: int = Field(default=0, ge=0, description="seed of the rows' order; not the scenario's seed")


@dataset("diabetes", summary="442 patients of 10 numbers from scikit-learn, and a number to foretell", extra="data")
def diabetes(config: DiabetesConfig) -> Dataset:
    """Load the rows; each column and the label have mean 0 and standard deviation 1 over the training rows.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    rows, labels = (torch.from_numpy(np.loadtxt(_file(name))).float() for name in ("data_raw", "target"))
    train, test = split_rows(Batch(rows, labels[:, None]), config.test_fraction, config.seed)
    mean, std = train.labels.mean(0), train.labels.std(0, correction=0)
    parts = [replace(part, labels=(part.labels - mean) / std) for part in (train, test)]
    return replace(standardise_table(parts[0], parts[1], ("progression",)), task="regression")


def _file(name: str) -> Path:
    owner = "scikit-learn, which holds the data set 'diabetes',"
    return require_package_file(
        "sklearn", f"datasets/data/diabetes_{name}.csv.gz", owner, "pip install 'fedsim-privacy[data]'"
    )
