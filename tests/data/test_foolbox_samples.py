"""Samples of foolbox: their labels come from their names."""

from typing import Any

import pytest
import torch

from fedsim.data.foolbox_samples import FoolboxSamplesConfig, foolbox_samples
from tests.data.installed import need


@pytest.mark.parametrize(
    ("collection", "shape", "classes", "some"),
    [
        ("cifar10", (3, 32, 32), 10, {0: 2, 1: 2, 2: 0, 6: 4, 8: 4}),
        ("cifar100", (3, 32, 32), 100, {71: 2, 92: 2}),
        ("mnist", (1, 28, 28), 10, {6: 1, 3: 1}),
        ("fashionMNIST", (1, 28, 28), 10, {0: 1, 9: 1}),
        ("imagenet", (3, 224, 224), 1000, {609: 2, 243: 1}),
    ],
)
def test_foolbox_labels_come_from_the_file_names(
    collection: Any, shape: tuple[int, ...], classes: int, some: dict[int, int]
) -> None:
    need("foolbox")
    dataset = foolbox_samples(FoolboxSamplesConfig(collection=collection))
    assert (dataset.spec.shape, dataset.spec.classes, len(dataset.train)) == (shape, classes, 20)
    assert torch.equal(dataset.train.inputs, dataset.test.inputs)
    counts = dataset.train.labels.bincount(minlength=classes)
    assert {label: int(counts[label]) for label in some} == some
