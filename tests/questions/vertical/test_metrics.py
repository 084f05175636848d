"""Figures of labels and columns at the cut, on values that are known."""

import numpy as np
import pytest
import torch

from fedsim.questions.vertical.metrics import (
    cut_label_accuracy,
    cut_r_squared,
    exact_rows,
    label_auc,
    nearer_than_public,
    split_accuracy,
)


def draws() -> np.random.Generator:
    return np.random.default_rng(0)


def test_shares_of_labels() -> None:
    read = cut_label_accuracy(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
    assert (read.value, read.n) == (0.75, 4)
    assert split_accuracy(torch.eye(3), torch.tensor([0, 1, 0])).value == pytest.approx(2 / 3)


def test_area_of_two_classes() -> None:
    scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
    area = label_auc(scores, labels, draws())
    assert area.value == 0.75
    assert label_auc(scores, torch.ones(4), draws()) is None


def test_the_mean_explains_nothing_the_original_all_and_a_worse_guess_less_than_nothing() -> None:
    of_mean = torch.tensor([1.0, 2.0, 3.0])
    assert cut_r_squared(of_mean, of_mean, draws()).value == 0.0
    assert cut_r_squared(torch.zeros(3), of_mean, draws()).value == 1.0
    half = cut_r_squared(of_mean / 2, of_mean, draws())
    assert (half.value, half.low, half.high) == (0.5, 0.5, 0.5)
    assert cut_r_squared(2 * of_mean, of_mean, draws()).value == -1.0


def test_exact_rows_and_rows_nearer_than_public_ones() -> None:
    originals = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    assert exact_rows(originals + torch.tensor([[1e-9, 0.0], [0.1, 0.0]]), originals).value == 0.5
    assert nearer_than_public(torch.tensor([1.0, 3.0, 2.0]), torch.full((3,), 2.0)).value == pytest.approx(1 / 3)
