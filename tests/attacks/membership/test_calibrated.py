"""The calibrated loss: how much lower it is than that of models that never saw the example."""

import pytest

from tests.attacks.membership.linear import Make, loss, observed, scored, weights


@pytest.mark.paper_step("calibrated", "shadow models without the candidates")
@pytest.mark.paper_step("calibrated", "mean loss of the shadow models minus the loss of the model")
def test_the_loss_of_the_shadows_less_that_of_the_last_weights(attack_of: Make) -> None:
    attack = attack_of("calibrated", shadows=4)
    seen = observed(attack.plan())
    both, last = seen.candidates, seen.weights[-1][1]
    hard = [sum(loss(weights(10 + k), both, i) for k in range(4)) / 4 for i in range(6)]
    expected = [hard[i] - loss(last, both, i) for i in range(6)]
    assert scored(attack, seen) == pytest.approx(expected, abs=1e-5)
