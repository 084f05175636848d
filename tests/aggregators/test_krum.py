"""Krum against brute force, and what Flower's own gets wrong."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Krum, MultiKrum
from flwr.serverapp.strategy.multikrum import compute_distances
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from tests.aggregators.rounds import rounds
from tests.federating import a_round


def brute_krum(rows, byzantine, keep):
    def score(index):
        others = [sum((a - b) ** 2 for a, b in zip(rows[index], row, strict=True))
                  for other, row in enumerate(rows) if other != index]  # fmt: skip
        return sum(sorted(others)[: len(rows) - byzantine - 2])

    best = sorted(range(len(rows)), key=lambda index: (score(index), index))[:keep]
    return np.mean([rows[index] for index in best], axis=0)


@pytest.mark.paper_step("krum", "score: distances to the nearest updates")
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


@pytest.mark.paper_step("krum", "mean of several updates of lowest score")
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
