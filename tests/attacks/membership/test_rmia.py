"""RMIA against a comparison of every pair."""

import pytest

from fedsim.core.types import Batch
from fedsim.questions.membership.types import Shadow
from tests.attacks.membership.linear import Make, observed, probability, scored


@pytest.mark.paper_step("rmia", "ratio of an example, with the offline approximation")
@pytest.mark.paper_step("rmia", "share of population examples that it exceeds by gamma")
@pytest.mark.parametrize(("a", "gamma"), [(0.3, 2.0), (1.0, 1.0), (0.0, 1.5)])
def test_rmia_compares_every_pair(attack_of: Make, a: float, gamma: float) -> None:
    attack = attack_of("rmia", shadows=4, a=a, gamma=gamma)
    plan = attack.plan()
    seen = observed(plan, candidates=20, reference=30)

    def ratio(examples: Batch, index: int, outside: list[Shadow]) -> float:
        without = sum(probability(own.weights, examples, index) for own in outside) / len(outside)
        inside = a * without + 1 - a
        return probability(seen.weights[-1][1], examples, index) / ((inside + without) / 2)

    every = list(seen.shadows[plan])
    ratios = [ratio(seen.reference, j, [own for own in every if not own.reference[j]]) for j in range(30)]
    expected = [sum(ratio(seen.candidates, i, every) / other >= gamma for other in ratios) / 30 for i in range(20)]
    assert scored(attack, seen) == pytest.approx(expected, abs=1e-6)
    assert len(set(expected)) > 3
