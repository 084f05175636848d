"""The median of each coordinate against brute force, and Flower's own."""

import itertools

import pytest
import torch
from flwr.serverapp.strategy import FedMedian
from hypothesis import given

from tests.aggregators.rounds import rounds
from tests.federating import a_round


def brute_median(column):
    ordered = sorted(column)
    return (ordered[(len(column) - 1) // 2] + ordered[len(column) // 2]) / 2


@pytest.mark.paper_step("median", "median of each coordinate")
@given(rounds)
def test_median(rule, contributions, rows):
    expected = [brute_median(column) for column in zip(*rows, strict=True)]
    assert rule("median").combine(contributions(rows), a_round()).tolist() == expected


def test_the_median_is_flowers(rule, contributions, flower):
    """Over every column of five small values."""
    table = torch.tensor(list(itertools.product([-2.0, 0.0, 1.0, 5.0], repeat=5))).T
    found = flower(FedMedian(), [{"v": row} for row in table])["v"]
    assert torch.equal(rule("median").combine(contributions(table), a_round()), found)
