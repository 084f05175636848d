"""Guessed targets beside the true ones, by hand."""

import math

import pytest
import torch

from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.metrics.targets import (
    align_guesses,
    mask_iou,
    mask_iou_guessed,
    set_f1,
    set_f1_guessed,
    set_read,
    spread,
    target_error,
    target_error_guessed,
    target_read,
)

NAN = torch.nan


def test_numbers_are_measured_in_standard_deviations_of_public_ones() -> None:
    labels = torch.tensor([[0.0, 7.0], [4.0, 7.0]])
    batch = Batch(torch.zeros(2, 3), labels)
    mean, std = spread(Dataset(batch, batch, InputSpec((3,), 2, (0.0,) * 3, (1.0,) * 3), ("a", "b")))
    assert mean.tolist() == [2.0, 7.0]
    assert std.tolist() == [2.0, 1.0]  # a number that never varies has no scale of its own
    true = torch.tensor([4.0, 7.0])
    assert target_error(torch.tensor([2.0, 7.0]), true, std) == pytest.approx(math.sqrt(0.5))
    assert target_error_guessed(true, mean, std) == pytest.approx(math.sqrt(0.5))
    assert target_error(true, true, std) == 0.0
    assert target_error(torch.tensor([4.0, NAN]), true, std) == 10.0


def test_a_target_is_read_within_a_thousandth() -> None:
    std, true = torch.tensor([2.0]), torch.tensor([4.0])
    near = [4.0, 4.0019, 4.0021, NAN]
    assert [target_read(torch.tensor([guess]), true, std) for guess in near] == [1.0, 1.0, 0.0, 0.0]


def test_sets_are_compared_label_by_label() -> None:
    true = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert set_f1(torch.tensor([1.0, 0.0, 1.0, 0.0]), true) == pytest.approx(2 / 4)
    assert set_f1(torch.tensor([1.0, NAN, NAN, 0.0]), true) == pytest.approx(2 / 3)
    assert (set_f1(true, true), set_read(true, true)) == (1.0, 1.0)
    assert set_read(torch.tensor([1.0, 1.0, 0.0, NAN]), true) == 0.0


def test_empty_sets_are_equal_if_both_are_known() -> None:
    nothing = torch.zeros(2)
    assert set_f1(nothing, nothing) == 1.0
    assert set_f1(torch.tensor([0.0, NAN]), nothing) == 0.0


def test_who_knows_nothing_guesses_the_frequent_labels_or_the_most_frequent_one() -> None:
    true = torch.tensor([1.0, 0.0, 0.0])
    assert set_f1_guessed(true, torch.tensor([0.6, 0.5, 0.4])) == pytest.approx(2 / 3)
    assert set_f1_guessed(true, torch.tensor([0.3, 0.2, 0.1])) == 1.0


def test_a_mask_is_compared_over_the_classes_that_it_shows() -> None:
    true = torch.tensor([[0, 0], [1, 1]])
    every = torch.ones(2, 2, dtype=torch.bool)
    assert mask_iou(torch.tensor([[0, 0], [0, 1]]), true, every) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mask_iou(torch.tensor([[0, 0], [-1, 1]]), true, every) == pytest.approx((1 + 1 / 2) / 2)
    assert mask_iou_guessed(true, torch.zeros(2, 2), every) == pytest.approx((2 / 4 + 0) / 2)
    assert mask_iou(torch.tensor([[0, 0], [0, 1]]), true, torch.tensor([[True, True], [False, True]])) == 1.0
    assert mask_iou(true, true, ~every) == 0.0


def test_guesses_of_something_else_are_no_targets() -> None:
    true = torch.zeros(2, 3)
    assert align_guesses(torch.zeros(2, dtype=torch.long), true).isnan().all()
    assert align_guesses(torch.ones(2), torch.zeros(2, 1)).tolist() == [[1.0], [1.0]]
