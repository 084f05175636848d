"""The trimmed mean against brute force, and what Flower's own lets through."""

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedTrimmedAvg
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregators.rounds import rounds
from tests.federating import a_round


def brute_trimmed_mean(column, trimmed):
    kept = sorted(column)[trimmed : len(column) - trimmed]
    return sum(kept) / len(kept)


@pytest.mark.paper_step("trimmed-mean", "mean of each coordinate without its extremes")
@given(rounds, st.sampled_from([0.0, 0.1, 0.2, 0.25, 1 / 3, 0.4, 0.49]))
def test_trimmed_mean(rule, contributions, rows, fraction):
    trimmed = math.floor(Decimal(repr(fraction)) * len(rows))
    expected = [brute_trimmed_mean(column, trimmed) for column in zip(*rows, strict=True)]
    assert np.allclose(
        rule("trimmed-mean", fraction=fraction).combine(contributions(rows), a_round()), expected, atol=1e-6
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_trimmed_mean_of_few_trims_nobody(rule, contributions, count):
    rows = [[float(index**2)] for index in range(count)]
    assert float(rule("trimmed-mean").combine(contributions(rows), a_round())) == pytest.approx(np.mean(rows))


def test_flowers_trimmed_mean_lets_one_through_where_a_product_is_rounded(rule, contributions, flower):
    """29 of 100 send 1e6; 0.29 * 100 is 28.999999999999996 in floating point."""
    rows = torch.zeros(100, 1)
    rows[:29] = 1e6
    assert float(flower(FedTrimmedAvg(beta=0.29), [{"v": row} for row in rows])["v"]) > 1e4
    assert float(rule("trimmed-mean", fraction=0.29).combine(contributions(rows), a_round())) == 0.0


@pytest.mark.parametrize("clients", range(1, 40))
def test_any_number_of_clients_can_be_trimmed(rule, contributions, clients):
    for hundredths in range(0, 50, 7):
        rows = [[float(2**index)] for index in range(clients)]
        expected = brute_trimmed_mean([row[0] for row in rows], hundredths * clients // 100)
        combined = rule("trimmed-mean", fraction=hundredths / 100).combine(contributions(rows), a_round())
        assert float(combined) == pytest.approx(expected)
