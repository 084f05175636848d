"""Every rule against brute force, and what Flower's own rules get wrong."""

import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from flwr.serverapp.strategy.multikrum import compute_distances
from hypothesis import given
from hypothesis import strategies as st

from fedsim.aggregators import _flower, krum
from fedsim.core.errors import FedsimError
from tests.federating import a_round

# Few different values, so that ties are common.
rounds = st.integers(1, 9).flatmap(
    lambda clients: st.integers(1, 4).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(-3, 3), min_size=size, max_size=size), min_size=clients, max_size=clients
        )
    )
)


def brute_trimmed_mean(column, trimmed):
    kept = sorted(column)[trimmed : len(column) - trimmed]
    return sum(kept) / len(kept)


def brute_median(column):
    ordered = sorted(column)
    return (ordered[(len(column) - 1) // 2] + ordered[len(column) // 2]) / 2


def brute_krum(rows, byzantine, keep):
    def score(index):
        others = [sum((a - b) ** 2 for a, b in zip(rows[index], row, strict=True))
                  for other, row in enumerate(rows) if other != index]  # fmt: skip
        return sum(sorted(others)[: len(rows) - byzantine - 2])

    best = sorted(range(len(rows)), key=lambda index: (score(index), index))[:keep]
    return np.mean([rows[index] for index in best], axis=0)


@given(rounds, st.data())
def test_mean(rule, contributions, rows, data):
    examples = data.draw(st.lists(st.integers(1, 50), min_size=len(rows), max_size=len(rows)))
    weighted = rule("mean").combine(contributions(rows, examples), a_round())
    assert np.allclose(weighted, np.average(rows, axis=0, weights=examples), atol=1e-6)
    plain = rule("mean", weighted=False).combine(contributions(rows, examples), a_round())
    assert np.allclose(plain, np.mean(rows, axis=0), atol=1e-6)


def test_mean_of_a_thousand_is_flowers_and_of_no_example_zero(rule, contributions, flower):
    vectors = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    examples = (torch.arange(1000) % 37 + 1).tolist()
    ours = rule("mean").combine(contributions(vectors, examples), a_round())
    assert torch.allclose(ours, flower(FedAvg(), [{"v": v} for v in vectors], examples)["v"], atol=1e-6)
    assert not rule("mean").combine(contributions(vectors[:2], [0, 0]), a_round()).any()


@given(rounds)
def test_median(rule, contributions, rows):
    expected = [brute_median(column) for column in zip(*rows, strict=True)]
    assert rule("median").combine(contributions(rows), a_round()).tolist() == expected


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


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum"])
def test_blocks_of_coordinates_make_no_difference(rule, contributions, monkeypatch, name):
    vectors = torch.randn(7, 100, generator=torch.Generator().manual_seed(2))
    whole = rule(name).combine(contributions(vectors), a_round())
    monkeypatch.setattr(_flower, "_BLOCK", 9)
    monkeypatch.setattr(krum, "_BLOCK", 9)
    assert torch.equal(rule(name).combine(contributions(vectors), a_round()), whole)


@given(rounds, st.integers(0, 3), st.integers(1, 9))
def test_krum(rule, contributions, rows, byzantine, keep):
    aggregator = rule("krum", byzantine=byzantine, keep=keep)
    if len(rows) <= 2 * byzantine + 2:
        with pytest.raises(FedsimError, match=rf"aggregation\.byzantine is {byzantine}.*at least {2 * byzantine + 3} "):
            aggregator.combine(contributions(rows), a_round())
    elif keep > len(rows) - byzantine:
        with pytest.raises(
            FedsimError, match=rf"aggregation\.keep is {keep}, expected at most {len(rows) - byzantine}"
        ):
            aggregator.combine(contributions(rows), a_round())
    else:
        expected = brute_krum(rows, byzantine, keep)
        assert np.allclose(aggregator.combine(contributions(rows), a_round()), expected, atol=1e-6)


def test_krum_breaks_ties_by_client_number(rule, contributions):
    """All distances are the same; 30 are more than an unstable sort leaves in order by chance."""
    assert rule("krum").combine(contributions(torch.eye(30)), a_round()).argmax() == 0
    assert rule("krum", keep=3).combine(contributions(torch.eye(30)), a_round()).nonzero().flatten().tolist() == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("byzantine", [0, 1, 3])
def test_krum_is_flowers_where_that_is_sound(rule, contributions, flower, byzantine):
    vectors = torch.randn(9, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    replies = [{"v": vector} for vector in vectors]
    ours = rule("krum", byzantine=byzantine).combine(contributions(vectors), a_round())
    assert torch.equal(ours, flower(Krum(num_malicious_nodes=byzantine), replies)["v"])
    several = rule("krum", byzantine=byzantine, keep=4).combine(contributions(vectors), a_round())
    theirs = flower(MultiKrum(num_malicious_nodes=byzantine, num_nodes_to_select=4), replies)["v"]
    assert torch.allclose(several, theirs, rtol=1e-12)


def test_flowers_krum_chooses_two_colluding_clients_of_four(rule, contributions, flower):
    rows = torch.tensor([[0.0, 0.1], [0.1, 0.0], [1e6, 1e6], [1e6, 1e6]])
    chosen = flower(Krum(num_malicious_nodes=2), [{"v": row} for row in rows])["v"]
    assert chosen.tolist() == [1e6, 1e6]
    with pytest.raises(FedsimError, match="at least 7 updates a round; 4 arrived"):
        rule("krum", byzantine=2).combine(contributions(rows), a_round())


def test_flowers_krum_loses_close_updates_to_rounding(rule, contributions, flower):
    """Updates that share a large part: the outlier, 100 times further away, is as good as any in Flower's eyes."""
    chosen = []
    negative = False
    for seed in range(30):
        rows = 1e3 + 1e-3 * torch.randn(7, 100, generator=torch.Generator().manual_seed(seed))
        rows[3] += 0.1
        chosen.append(torch.equal(flower(Krum(num_malicious_nodes=1), [{"v": row} for row in rows])["v"], rows[3]))
        negative |= bool((compute_distances([ArrayRecord({"v": row}) for row in rows]) < 0).any())
        assert not torch.equal(rule("krum").combine(contributions(rows), a_round()), rows[3])
    assert any(chosen)
    assert negative


def test_flowers_multikrum_believes_how_many_examples_a_client_states(rule, contributions, flower):
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    examples = [1, 1, 1, 10**9, 1]
    theirs = flower(MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3), [{"v": row} for row in rows], examples)
    assert float(theirs["v"]) == pytest.approx(3.0)
    assert float(rule("krum", keep=3).combine(contributions(rows, examples), a_round())) == pytest.approx(2.0)


def test_flowers_median_is_sound(flower):
    """By brute force over every column of five small values, so that ours may go through it."""
    columns = list(itertools.product([-2.0, 0.0, 1.0, 5.0], repeat=5))
    table = torch.tensor(columns).T
    found = flower(FedMedian(), [{"v": row} for row in table])["v"]
    assert found.tolist() == [brute_median(column) for column in columns]
