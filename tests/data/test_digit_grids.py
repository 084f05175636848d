"""The data set of grids: the same each time, no digit in training and test images, mistakes in a sentence."""

import pytest
import torch
from pydantic import ValidationError

from fedsim.core import registry, seeding
from fedsim.data._grid_words import GridWords
from fedsim.data.digit_grids import DigitGridsConfig, digit_grids, draw_grids, stocks


def small(**settings: object):
    return digit_grids(DigitGridsConfig.model_validate({"source": "digits", "train": 40, "test": 20, **settings}))


def test_it_is_the_same_each_time_and_another_with_another_seed() -> None:
    before = torch.random.get_rng_state()
    first, second, other = small(), small(), small(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for own, again in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(own.inputs, again.inputs)
        assert torch.equal(own.extra_inputs["question"], again.extra_inputs["question"])
        assert torch.equal(own.labels, again.labels)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_shapes_and_words() -> None:
    data = small()
    assert data.train.inputs.shape == (40, 1, 56, 56)
    assert (data.train.labels.shape, data.train.extra_inputs["question"].shape) == ((40, 2), (40, 4))
    assert data.spec.classes == len(data.class_names) == 40
    assert 0 <= float(data.train.inputs.min()) <= float(data.train.inputs.max()) <= 1
    longer = small(cells=3, max_digits=5, list=1.0)
    assert (longer.train.labels.shape, longer.spec.shape) == ((40, 7), (1, 42, 42))
    task = registry.get("task", data.task)
    assert task.make(task.config()).refuses(data) is None


def test_a_user_asks_one_kind_of_question_or_has_one_digit_above_all() -> None:
    words = GridWords(4)
    own = small(train=300)
    assert own.users is not None
    kinds = [words.kind(row) for row in own.train.extra_inputs["question"].tolist()]
    of_user = {
        user: {kind for kind, one in zip(kinds, own.users.tolist(), strict=True) if one == user}
        for user in own.users.tolist()
    }
    assert all(len(some) == 1 for some in of_user.values())
    assert 100 <= len(of_user) <= 3 * 40
    assert small(owners="digit").users.unique().numel() > 10


@pytest.mark.parametrize("source", ["digits", "mnist5k"])
def test_training_and_test_images_share_no_digit(source) -> None:
    train, test = stocks(source)
    assert not {tile.numpy().tobytes() for tile in train.tiles} & {tile.numpy().tobytes() for tile in test.tiles}
    assert len(train.tiles) == pytest.approx(4 * len(test.tiles), rel=0.02)
    assert 0 <= float(train.tiles.min()) <= float(train.tiles.max()) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_digits": 5, "max_digits": 4}, "min_digits is 5 and max_digits 4"),
        ({"cells": 2, "max_digits": 4, "min_digits": 1}, "fewer than the 4 cells"),
        ({"position": 0, "presence": 0, "counting": 0}, "all kinds of questions have weight 0"),
    ],
)
def test_mistakes_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DigitGridsConfig.model_validate(settings)


def test_attributes_are_the_kind_of_question_how_full_a_grid_is_and_the_word_of_each_cell() -> None:
    config = DigitGridsConfig(source="digits", train=40, test=10)
    data = digit_grids(config)
    words = GridWords(4)
    kinds = [words.kind(question) for question in data.train.extra_inputs["question"].tolist()]
    assert [data.attributes["kind"].values[number] for number in data.attributes["kind"].train] == kinds
    source = seeding.generator(config.seed, "digit grids train")
    batch, digits = draw_grids(config, 40, stocks("digits")[0], source)
    assert torch.equal(batch.inputs, data.train.inputs)
    is_dense = [
        sum(digit >= 0 for digit in grid) > (config.min_digits + config.max_digits) / 2 for grid in digits.tolist()
    ]
    assert data.attributes["filling"].train.tolist() == [int(own) for own in is_dense]
    assert {True, False} == set(is_dense)
    assert len(data.attributes["kind"].test) == 10
    cell = data.attributes["r1 c2"]
    said = [cell.values[number] for number in cell.train]
    assert said == ["none" if digit < 0 else f"d{digit}" for digit in digits[:, 1 * 4 + 2].tolist()]
