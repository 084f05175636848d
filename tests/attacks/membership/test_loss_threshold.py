"""The loss under the last weights, written out."""

import pytest

from tests.attacks.membership.linear import Make, loss, observed, scored


@pytest.mark.paper_step("loss-threshold", "loss of the final model as score")
def test_the_loss_is_that_of_the_last_weights_alone(attack_of: Make) -> None:
    seen = observed()
    expected = [-loss(seen.weights[-1][1], seen.candidates, i) for i in range(6)]
    assert scored(attack_of("loss-threshold"), seen) == pytest.approx(expected, abs=1e-5)
