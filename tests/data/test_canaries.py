"""Canary images are unlike each other, stand behind the training set, and are repeated as often as is said."""

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.types import Dataset
from fedsim.data._canaries import plant
from fedsim.metrics.image import to_pixels


def digits(**settings: object) -> Dataset:
    source = registry.get("dataset", "digits")
    return source.make(source.config.model_validate({"train": 20, "test": 10, **settings}))


def test_copies_stand_where_they_are_said_to_and_nothing_else_changes() -> None:
    plain, data = digits(), digits(canaries=3, repetitions=[0, 1, 3])
    assert torch.equal(data.train.inputs[:20], plain.train.inputs)
    assert torch.equal(data.test.inputs, plain.test.inputs)
    assert [planted_image.examples for planted_image in data.planted_images] == [(), (20,), (21, 22, 23)]
    assert len(data.train) == 24
    for planted_image in data.planted_images:
        assert all(torch.equal(data.train.inputs[place], planted_image.image) for place in planted_image.examples)
        assert all(int(data.train.labels[place]) == planted_image.label for place in planted_image.examples)
    assert not plain.planted_images


def test_they_are_black_and_white_and_all_different_from_their_controls() -> None:
    data = digits(canaries=3, repetitions=[0, 1, 3])
    images = torch.cat(
        [torch.cat((planted_image.image[None], planted_image.left_out)) for planted_image in data.planted_images]
    )
    assert len(images) == 3 * 128
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    pixels = to_pixels(images, data.spec)
    assert set(pixels.round(decimals=4).unique().tolist()) == {0.0, 1.0}


def test_more_canaries_than_patterns_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"data\.canaries is 1000, expected at most 512"):
        plant(digits(), 1000, (1,), 0)
