"""The server's validation examples: a part of the test set, on which components choose settings of evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch, Dataset


class Validation(NamedTuple):
    """Validation examples, and the data set whose test set lacks them."""

    examples: Batch
    reduced_dataset: Dataset


def split_validation(dataset: Dataset, size: int, seed: int) -> Validation:
    """Return `size` random test examples, and the data set without them; with size 0 the data set itself.

    Raises:
        ScenarioError: the test set is not larger, has no labels, or is the training set.
    """
    test, key = dataset.test, f"components.validation is {size}"
    if size and torch.equal(dataset.train.inputs, test.inputs):
        raise ScenarioError(f"{key}, but the test set is the training set. Set it to 0.")
    if size and dataset.similarities is not None:
        raise ScenarioError(f"{key}, but the test examples have no labels to compare with. Set it to 0.")
    if size >= len(test):
        raise ScenarioError(f"{key}, expected below {len(test)}, the number of test examples.")
    order = torch.randperm(len(test), generator=seeding.generator(seed, "validation"))
    left = test.select(order[size:].sort().values)
    return Validation(test.select(order[:size]), replace(dataset, test=left) if size else dataset)
