"""Fresh masks in every iteration."""

import pytest

from tests.attacks.solving import attacked
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


@pytest.mark.paper_step("ig-train", "fresh masks in every iteration")
def test_the_objective_is_noise_and_the_attack_of_one_draw_is_that_of_one_set() -> None:
    observation, _, _ = watched(knows=KNOWN)
    fresh = attacked("ig-train", observation, max_iterations=6, learning_rate=1e-9)
    values = [objective for _, objective in fresh.history]
    assert max(values) - min(values) > 1e-3  # the dummy stands still, the masks do not
    assert fresh.masks is None
    single = attacked("ig-mc", observation, max_iterations=6, learning_rate=1e-9, draws=1)
    assert single.history == fresh.history
