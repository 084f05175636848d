"""The mean against numpy's weighted average and Flower's own."""

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregators.rounds import rounds
from tests.federating import a_round


@pytest.mark.paper_step("mean", "mean weighted by examples")
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
