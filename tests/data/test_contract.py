"""What every set of images promises; tests/data/test_text.py says it of text."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import MissingExtra
from fedsim.core.types import Batch, Dataset
from fedsim.data._images import ImageConfig

NAMES = sorted(n for n, m in registry.methods("dataset").items() if issubclass(m.config, ImageConfig))
TRAIN_IS_TEST = {"foolbox-samples"}


def load(name: str, settings: dict[str, Any]) -> Dataset:
    method = registry.get("dataset", name)
    try:
        return method.make(method.config(**settings))
    except MissingExtra as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest, settings: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return request.param, settings.get(request.param, {})


def rows(batch: Batch) -> set[bytes]:
    return {example.numpy().tobytes() for example in batch.inputs}


def pixels(batch: Batch, dataset: Dataset) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (dataset.spec.mean, dataset.spec.std))
    return batch.inputs * std + mean


def test_shapes_types_and_range(named: tuple[str, dict[str, Any]]) -> None:
    dataset = load(*named)
    assert dataset.spec.classes == len(dataset.class_names)
    assert len(dataset.spec.mean) == len(dataset.spec.std) == dataset.spec.shape[0]
    for batch in (dataset.train, dataset.test):
        assert batch.inputs.dtype == torch.float32
        assert batch.labels.dtype == torch.int64
        assert batch.inputs.shape == (len(batch.labels), *dataset.spec.shape)
        assert len(batch) > 0
        assert batch.labels.min() >= 0
        assert batch.labels.max() < dataset.spec.classes
        assert pixels(batch, dataset).min() > -1e-6
        assert pixels(batch, dataset).max() < 1 + 1e-6
        assert torch.allclose(pixels(batch, dataset).mul(255).round() / 255, pixels(batch, dataset), atol=1e-6)


def test_it_is_the_same_each_time(named: tuple[str, dict[str, Any]]) -> None:
    name, settings = named
    before = torch.random.get_rng_state()
    first, second = load(name, settings), load(name, settings)
    other = load(name, {**settings, "seed": 1})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.labels, second.test.labels)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_no_training_image_is_tested_on(named: tuple[str, dict[str, Any]]) -> None:
    dataset = load(*named)
    shared = rows(dataset.train) & rows(dataset.test)
    if named[0] in TRAIN_IS_TEST:
        assert shared == rows(dataset.train)
    else:
        assert not shared


def test_limits_keep_a_balanced_beginning(named: tuple[str, dict[str, Any]]) -> None:
    name, settings = named
    everything, limited = load(name, settings), load(name, {**settings, "train": 7, "test": 1})
    assert (len(limited.train), len(limited.test)) == (7, 1)
    assert torch.equal(limited.train.inputs, everything.train.inputs[:7])
    assert limited.spec == everything.spec
    available = everything.train.labels.bincount()
    kept = limited.train.labels.bincount(minlength=len(available))
    could_take_more = kept < available
    assert kept.max() <= kept[could_take_more].min() + 1


def test_size_decides_the_shape(named: tuple[str, dict[str, Any]]) -> None:
    name, settings = named
    for size in (6, 33):
        dataset = load(name, {**settings, "size": size, "train": 2, "test": 2})
        assert dataset.spec.shape[1:] == (size, size)
        assert dataset.train.inputs.shape[2:] == (size, size)
