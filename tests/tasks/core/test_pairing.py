"""Pairs are found by their labels, wherever their rows stand, and every row has a partner."""

import torch

from fedsim.tasks.core.pairing import pairs_in, partners_in


def test_rows_with_the_same_label_are_partners() -> None:
    assert pairs_in(torch.tensor([5.0, 2.0, 2.0, 5.0])).tolist() == [[1, 2], [0, 3]]
    assert partners_in(torch.tensor([5.0, 2.0, 2.0, 5.0])).tolist() == [3, 2, 1, 0]
    assert partners_in(torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])).tolist() == [3, 4, 5, 0, 1, 2]


def test_labels_that_nobody_knows_still_pair_every_row() -> None:
    partners = partners_in(torch.full((6,), torch.nan))
    assert partners[partners].tolist() == list(range(6))
    assert not bool((partners == torch.arange(6)).any())


def test_a_row_that_is_left_alone_is_its_own_partner() -> None:
    assert partners_in(torch.tensor([1.0, 0.0, 0.0])).tolist() == [0, 2, 1]
    assert partners_in(torch.zeros(1)).tolist() == [0]
