"""The server's validation examples are a random part of the test set, and the test lacks them."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.scenario.validation import split_validation

TEST = 12


def dataset() -> Dataset:
    train, test = (Batch(torch.arange(n).float()[:, None] + n, torch.arange(n) % 3) for n in (20, TEST))
    return Dataset(train, test, InputSpec((1,), 3, (), ()), ("a", "b", "c"))


def test_both_parts_are_the_test_set_and_each_keeps_its_labels() -> None:
    own = dataset()
    found = split_validation(own, 5, 3)
    assert (len(found.examples), len(found.reduced_dataset.test)) == (5, 7)
    both = torch.cat((found.examples.inputs, found.reduced_dataset.test.inputs))
    assert torch.equal(both.sort(0).values, own.test.inputs)
    for part in (found.examples, found.reduced_dataset.test):
        assert torch.equal(part.labels, (part.inputs[:, 0].long() - TEST) % 3)
    assert torch.equal(found.reduced_dataset.test.inputs, found.reduced_dataset.test.inputs.sort(0).values)
    assert found.reduced_dataset.train is own.train


def test_the_part_is_random_and_the_same_for_the_same_seed() -> None:
    parts = [split_validation(dataset(), 5, seed).examples.inputs for seed in (3, 3, 4)]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0].sort(0).values, parts[2].sort(0).values)
    assert not torch.equal(parts[0].sort(0).values, dataset().test.inputs[:5])


def test_without_validation_the_data_set_is_the_same_object() -> None:
    own = dataset()
    found = split_validation(own, 0, 3)
    assert found.reduced_dataset is own
    assert not len(found.examples)


def test_what_cannot_be_split_is_refused_with_the_key() -> None:
    own = dataset()
    with pytest.raises(ScenarioError, match=r"components.validation is 12, expected below 12, the number of test ex"):
        split_validation(own, TEST, 3)
    assert len(split_validation(own, TEST - 1, 3).reduced_dataset.test) == 1
    same = replace(own, test=own.train)
    with pytest.raises(ScenarioError, match="the test set is the training set"):
        split_validation(same, 2, 3)
    assert split_validation(same, 0, 3).reduced_dataset is same
