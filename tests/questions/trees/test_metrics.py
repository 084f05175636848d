"""What was read of rows counts as an enumeration by hand counts it."""

import numpy as np
import pytest
import torch

from fedsim.questions.trees.metrics import (
    alone_in,
    box_bits,
    covered_share,
    find_occurring,
    leaf_counts_exact,
    match_boxes,
    near_scores,
    single_row_boxes,
    targets_exact,
    threshold_precision,
    trees_accuracy,
    trees_explained,
    value_gain,
    values_near,
)
from fedsim.questions.trees.types import RowBoxes

INF = torch.inf


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def intervals(*bounds: tuple[float, float], labels: list[int] | None = None) -> RowBoxes:
    low, high = torch.tensor(bounds).T
    return RowBoxes(torch.tensor(labels or [0] * len(bounds)), low[:, None], high[:, None])


def test_a_leaf_is_read_where_both_sums_are_right() -> None:
    sums = torch.tensor([[1.0, 0.7], [1.0, -0.2], [5.0, 2.0], [3.0, 1.0]])
    read = torch.tensor([[1.0, 0.70001], [1.0, -0.3], [5.0, 2.0], [2.0, 1.0]])
    assert leaf_counts_exact(read, sums).value == 0.5
    assert targets_exact(read, sums).value == 0.1  # of ten rows the first alone
    assert targets_exact(read, sums).n == 10


def test_values_occur_in_their_own_column() -> None:
    rows = torch.tensor([[0.1, 2.0], [3.0, 0.1]])
    listed = torch.tensor([[0.0, 0.1], [1.0, 0.1], [1.0, 3.0]]).double()
    listed[0, 1] = float(torch.tensor(0.1))
    assert find_occurring(listed, rows).tolist() == [True, True, False]
    assert threshold_precision(find_occurring(listed, rows)).value == pytest.approx(2 / 3)


def test_rows_are_matched_one_to_one_with_the_right_label() -> None:
    boxes = intervals((-INF, 1.0), (0.0, 2.0), (0.0, 2.0), labels=[0, 0, 1])
    rows, labels = torch.tensor([[0.5], [0.6], [0.7], [1.0]]), torch.tensor([0, 0, 0, 1])
    matched = match_boxes(boxes, rows, labels)
    assert int(matched.sum()) == 3  # three rows of label 0, two boxes
    assert bool(matched[3])
    assert covered_share(matched).value == 0.75
    assert not match_boxes(boxes, torch.tensor([[2.0]]), torch.tensor([1])).any()  # a bound above is not in the box


def test_boxes_count_their_rows() -> None:
    boxes, rows = intervals((-INF, 1.0), (1.0, INF), (5.0, 6.0)), torch.tensor([[0.0], [1.0], [2.0]])
    assert alone_in(boxes, rows).tolist() == [True, False, False]
    assert single_row_boxes(alone_in(boxes, rows)).value == pytest.approx(1 / 3)
    expected = -np.log2([2 / 5, 3 / 5, 1 / 5]).mean()
    assert box_bits(boxes, rows, draws()).value == pytest.approx(expected)


def test_near_values_count_after_the_best_matching() -> None:
    rows, spread = torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([1.0, 2.0])
    guesses = torch.tensor([[5.3, 5.6], [0.4, 0.6], [9.0, 9.0]])
    assert near_scores(guesses, rows, spread).tolist() == [0.5, 1.0]
    assert near_scores(guesses[:1], rows, spread).tolist() == [0.0, 1.0]
    scores = torch.tensor([0.5, 1.0, 0.75])
    assert values_near(scores, draws()).value == 0.75
    gain = value_gain(scores, torch.tensor([0.5, 0.5, 0.5]), draws())
    assert gain.value == pytest.approx(0.25)
    assert gain.low <= 0.25


def test_models_are_judged_by_the_likelier_class_or_by_squares() -> None:
    assert trees_accuracy(torch.tensor([0.6, 0.4, 0.9, 0.2]), torch.tensor([1, 0, 0, 0])).value == 0.75
    numbers = torch.tensor([1.0, 2.0, 3.0])
    assert trees_explained(numbers, numbers).value == 1.0
    assert trees_explained(torch.full((3,), 2.0), numbers).value == 0.0
