"""LiRA against Gaussians written out."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import norm

from fedsim.core.types import Tensors
from tests.attacks.membership.linear import Make, observed, probability, scored


@pytest.mark.paper_step("lira", "shadow models with and without each candidate")
@pytest.mark.paper_step("lira", "Gaussians of both groups, per example or with a common variance")
@pytest.mark.paper_step("lira", "likelihood ratio, or the offline test")
@pytest.mark.parametrize("variance", ["fixed", "per-example"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_lira_is_the_likelihood_ratio_of_two_gaussians(attack_of: Make, mode: str, variance: str) -> None:
    attack = attack_of("lira", shadows=6, mode=mode, variance=variance)
    plan = attack.plan()
    seen = observed(plan)
    shadows = seen.shadows[plan]

    def logit(own: Tensors, index: int) -> float:
        p = probability(own, seen.candidates, index)
        return float(torch.tensor(p / (1 - p), dtype=torch.float64).log())

    def gathered(index: int, is_inside: bool) -> torch.Tensor:
        chosen = [logit(shadow.weights, index) for shadow in shadows if bool(shadow.candidates[index]) == is_inside]
        return torch.tensor(chosen, dtype=torch.float64)

    def deviation(index: int, is_inside: bool) -> float:
        if variance == "per-example":
            return float(gathered(index, is_inside).std())
        each = [gathered(i, is_inside) for i in range(6)]
        squares = sum(float(((own - own.mean()) ** 2).sum()) for own in each)
        return (squares / sum(len(own) - 1 for own in each)) ** 0.5

    expected = []
    for i in range(6):
        phi = logit(seen.weights[-1][1], i)
        outside = norm(float(gathered(i, False).mean()), deviation(i, False))
        if mode == "offline":
            expected.append((phi - outside.mean()) / outside.std())
            continue
        inside = norm(float(gathered(i, True).mean()), deviation(i, True))
        expected.append(inside.logpdf(phi) - outside.logpdf(phi))
    assert scored(attack, seen) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.paper_step("lira", "logit of the label's probability")
def test_a_confidence_that_rounds_to_one_still_has_a_logit(attack_of: Make) -> None:
    attack = attack_of("lira", shadows=4, mode="offline")
    seen = observed(attack.plan())
    sure = {name: tensor * 1e4 for name, tensor in seen.weights[-1][1].items()}
    assert all(abs(score) < float("inf") for score in scored(attack, replace(seen, weights=((1, sure),))))
