"""Examples of several guesses are put together where the distance falls, and nowhere else."""

import torch
from torch import Tensor

from attacks.combined._union import _filled, _is_among, unite
from attacks.core.batches import OrderedGuess

TRUTH = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
LABELS = torch.tensor([0, 1, 1])


def distance(inputs: Tensor) -> float:
    return float((inputs - TRUTH).norm())


def batch(*found: int, wrong: int | None = None) -> OrderedGuess:
    inputs, are_found = torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool)
    for example in found:
        inputs[example], are_found[example] = TRUTH[example], True
    if wrong is not None:
        inputs[wrong], are_found[wrong] = torch.tensor([-5.0, 3.0]), True
    return OrderedGuess(inputs, None, are_found)


def test_what_one_found_fills_the_places_where_another_found_nothing() -> None:
    found = unite([batch(0, 1), batch(2)], LABELS, distance, swaps=False)
    assert torch.equal(found.batch.inputs, TRUTH)
    assert found.batch.are_found.tolist() == [True] * 3
    assert found.sources == (0, 1)


def test_a_wrong_example_is_replaced_only_where_swaps_are_tried() -> None:
    guesses = [batch(0, 1, wrong=2), batch(2, wrong=1)]
    assert not torch.equal(unite(guesses, LABELS, distance, swaps=False).batch.inputs, TRUTH)
    assert torch.equal(unite(guesses, LABELS, distance, swaps=True).batch.inputs, TRUTH)


def test_what_does_not_lower_the_distance_is_left_out() -> None:
    found = unite([batch(0, 1, 2), batch(wrong=1)], LABELS, distance, swaps=True)
    assert torch.equal(found.batch.inputs, TRUTH)
    assert found.sources == (0,)


def test_an_example_fills_no_place_of_another_label() -> None:
    of_class_one = OrderedGuess(TRUTH[[1, 0, 2]], None, torch.tensor([False, True, False]))
    assert _filled(batch(1, 2), of_class_one, LABELS) is None  # what is empty is of class 0
    assert _filled(batch(0, 2), of_class_one, LABELS) is None  # and this example is there already


def test_an_example_in_an_empty_place_is_found_there() -> None:
    found = unite([batch(0), batch(1, wrong=2)], LABELS, distance, swaps=True)  # the other guess as a whole is worse
    assert torch.equal(found.batch.inputs[:2], TRUTH[:2])
    assert found.batch.are_found.tolist() == [True, True, False]


def test_two_examples_are_the_same_within_a_share_of_their_size() -> None:
    large, small = torch.tensor([100.0, 0.0]), torch.tensor([0.01, 0.0])
    assert _is_among(large, large[None] + 0.5)
    assert not _is_among(large, large[None] + 1.5)
    assert not _is_among(small, 2.0 * small[None])
