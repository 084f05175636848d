"""The mean gradient over several sets of masks."""

import pytest
import torch

from tests.attacks.solving import attacked
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


@pytest.mark.paper_step("ig-mc", "mean gradient over drawn masks")
def test_more_draws_make_the_objective_steadier() -> None:
    observation, _, _ = watched(knows=KNOWN)

    def spread(draws: int) -> float:
        guess = attacked("ig-mc", observation, max_iterations=20, learning_rate=1e-9, draws=draws)
        return float(torch.tensor([objective for _, objective in guess.history]).std())

    assert spread(16) < 0.7 * spread(1)
