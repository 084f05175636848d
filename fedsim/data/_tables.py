"""Shared code of tabular data sets: train-test split, one-hot encoding and standardisation."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Batch, Dataset, InputSpec


def split_rows(rows: Batch, test_fraction: float, seed: int) -> tuple[Batch, Batch]:
    """Return training and test rows, in random order."""
    mixed = rows.select(torch.randperm(len(rows), generator=seeding.generator(seed, "order of rows")))
    train, test = mixed.split(len(rows) - round(test_fraction * len(rows)))
    return train, test


def one_hot(values: Tensor) -> Tensor:
    """Return a column of 0 and 1 for each value of a category, shape (N, values)."""
    return (values[:, None] == values.unique()).float()


def standardise_table(train: Batch, test: Batch, class_names: tuple[str, ...]) -> Dataset:
    """Return a table with columns of mean 0 and standard deviation 1 over the training rows.

    The statistics of its spec map each column's training range to [0, 1].
    """
    mean, std = train.inputs.mean(0), train.inputs.std(0, correction=0).clamp_min(1e-12)
    low = train.inputs.amin(0)
    width = (train.inputs.amax(0) - low).clamp_min(1e-12)
    spec = InputSpec(
        tuple(train.inputs.shape[1:]),
        len(class_names),
        tuple(((mean - low) / width).tolist()),
        tuple((std / width).tolist()),
    )
    parts = [Batch((part.inputs - mean) / std, part.labels) for part in (train, test)]
    return Dataset(parts[0], parts[1], spec, class_names, task="tabular")
