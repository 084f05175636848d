"""Outpost: how often steps are changed, what is pruned, and where the noise lies."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from defenses.core.support import count_dropped
from defenses.layers.outpost import risk
from tests.defenses.stepping import gradient, here, local_step, make

DRAWS = 2000


@pytest.mark.paper_step("outpost", "a step is changed with a probability that decays")
@pytest.mark.parametrize(
    ("beta", "step"),
    [
        (0.125, 8),
        (1.0, 3),
        pytest.param(0.125, 0, marks=pytest.mark.slow),
        pytest.param(0.0, 50, marks=pytest.mark.slow),
    ],
)
def test_a_step_is_changed_with_the_stated_probability(beta: float, step: int) -> None:
    defense, local, plain = make("outpost", beta=beta), local_step(), gradient()
    changed = 0
    for seed in range(DRAWS):
        after = defense.on_gradient(plain, here(seed, step, local))
        changed += any(not torch.equal(after[name], plain[name]) for name in plain)
    p = 1.0 / (1.0 + beta * step)
    assert abs(changed - DRAWS * p) <= 4 * math.sqrt(DRAWS * p * (1 - p))


@pytest.mark.paper_step("outpost", "pruning of the smallest entries of each tensor")
@given(st.floats(0.0, 0.95), st.integers(0, 100))
def test_without_noise_it_prunes_each_tensor(rate: float, seed: int) -> None:
    plain = gradient()
    after = make("outpost", rate=rate, noise=0.0, beta=0.0).on_gradient(plain, here(seed, 3, local_step()))
    for name, tensor in plain.items():
        kept = after[name] != 0
        assert int(kept.sum()) == tensor.numel() - count_dropped(tensor.numel(), rate)
        assert torch.equal(after[name][kept], tensor[kept])


@pytest.mark.paper_step("outpost", "risk of a layer: variance of its weights")
@pytest.mark.paper_step("outpost", "noise on the entries of largest Fisher information")
def test_noise_follows_the_risk_of_the_layer_and_hits_the_largest_squared_gradients() -> None:
    local = local_step()
    plain = {name: torch.zeros_like(p) for name, p in local.parameters.items()}
    plain["first.weight"] = torch.arange(1.0, 31.0).view(5, 6)  # the largest 30 of 60 entries
    defense = make("outpost", rate=0.0, noise=0.5, noised_share=0.25)
    sent = [defense.on_gradient(plain, here(seed, 0, local))["first.weight"] for seed in range(DRAWS)]
    noise = torch.stack(sent) - plain["first.weight"]
    hit = noise.any(0).flatten()
    total = sum(p.numel() for p in plain.values())
    assert hit.nonzero().flatten().tolist() == list(range(30 - (total - count_dropped(total, 0.75)), 30))
    weights = local.parameters["first.weight"].detach()
    expected = 0.5 * min(float(weights.var(correction=0)), 1.0)
    assert float(noise.flatten(1)[:, hit].std()) == pytest.approx(expected, rel=0.03)


def test_the_risk_is_at_most_one_and_that_of_a_number_is_zero() -> None:
    assert float(risk(100.0 * torch.randn(1000))) == 1.0
    assert float(risk(torch.tensor(3.0))) == 0.0
    assert make("outpost").needs_step
