"""How far the loss has fallen from the mean of the earlier weights to the last, written out."""

import pytest

from tests.attacks.membership.linear import Make, loss, observed, scored, weights


@pytest.mark.paper_step("loss-trajectory", "fall of the loss over the rounds")
def test_the_loss_has_fallen_from_the_mean_of_the_earlier_weights(attack_of: Make) -> None:
    seen = observed()
    both, last = seen.candidates, seen.weights[-1][1]
    earlier = [(loss(weights(3), both, i) + loss(weights(4), both, i)) / 2 for i in range(6)]
    expected = [earlier[i] - loss(last, both, i) for i in range(6)]
    assert scored(attack_of("loss-trajectory"), seen) == pytest.approx(expected, abs=1e-5)
