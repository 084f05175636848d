"""MixUp: pairs with one weight of a Beta law."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import nn

from defenses.batch.mixup import Mixup, MixupConfig
from fedsim.core.types import Batch
from tests.defenses.batch.mixtures import CLASSES, distinct, mixed


@pytest.mark.paper_step("mixup", "pairs by a random permutation, one weight per batch")
@pytest.mark.paper_step("mixup", "labels mixed with the same weight")
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.floats(0.05, 20.0), st.integers(0, 10_000))
def test_mixup_mixes_pairs_with_one_weight(examples: int, alpha: float, seed: int) -> None:
    batch = distinct(examples)
    result = mixed(Mixup(MixupConfig(alpha=alpha)), batch, seed)
    weights = result.inputs.view(examples, examples)
    assert torch.allclose(weights.sum(0), torch.ones(examples), atol=1e-6)
    assert torch.allclose(weights.sum(1), torch.ones(examples), atol=1e-6)
    own = {round(float(w), 5) for w in weights.diagonal() if float(w) < 1.0}
    assert len(own) <= 1
    assert int((weights > 0).sum(1).max()) <= 2
    assert torch.allclose(result.labels, weights @ nn.functional.one_hot(batch.labels, CLASSES).float(), atol=1e-6)


@pytest.mark.paper_step("mixup", "weight from a Beta law")
@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_the_weight_of_mixup_has_a_beta_law(alpha: float) -> None:
    batch = Batch(torch.tensor([[[[1.0]]], [[[0.0]]]]), torch.tensor([0, 1]))
    defense = Mixup(MixupConfig(alpha=alpha))
    results = [mixed(defense, batch, seed) for seed in range(600)]
    drawn = [float(result.inputs[0]) for result in results if 0.0 < float(result.inputs[0]) < 1.0]  # the swapped pairs
    assert len(drawn) == pytest.approx(300, abs=60)
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 1e-3
