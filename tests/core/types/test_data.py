"""Batches carry what else a model reads through every way of cutting and joining them."""

import torch

from fedsim.core.examples import example_indices, unique_examples
from fedsim.core.types import Batch


def batch(first: int, count: int) -> Batch:
    own = torch.arange(first, first + count)
    return Batch(own[:, None].float(), own % 2, {"question": own[:, None] * 10})


def questions(*parts: Batch) -> list[list[int]]:
    return [part.extra_inputs["question"].flatten().tolist() for part in parts]


def test_taking_splitting_and_joining_keep_what_is_given_beside_its_example():
    whole = batch(0, 5)
    assert questions(whole.select(torch.tensor([3, 0]))) == [[30, 0]]
    assert questions(*whole.split(2)) == [[0, 10], [20, 30], [40]]
    assert questions(Batch.concat([batch(4, 1), batch(0, 2)])) == [[40, 0, 10]]
    assert [len(part) for part in whole.split(9)] == [5]


def test_a_batch_without_anything_given_stays_so():
    plain = Batch(torch.zeros(3, 2), torch.arange(3))
    assert [
        own.extra_inputs for own in (plain.select(torch.tensor([1])), Batch.concat([plain, plain]), *plain.split(2))
    ] == [{}] * 4


def test_examples_with_other_questions_are_other_examples():
    asked = Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), {"question": torch.tensor([[1], [2]])})
    again = asked.select(torch.tensor([1, 1]))
    assert [number.tolist() for number in example_indices([asked, again])] == [[0, 1], [1, 1]]
    assert questions(unique_examples([asked, again])) == [[1, 2]]
