"""The masked loss: minus the mean over masks of the mean loss at their places, by hand."""

import pytest
import torch

from fedsim.core import seeding
from tests.attacks.membership.linear import Make
from tests.attacks.membership.masked import COUNT, LENGTH, log_odds, observed, weights


@pytest.mark.paper_step("masked-loss", "loss as score")
def test_the_score_is_the_mean_over_masks_of_evenly_spread_shares(attack_of: Make) -> None:
    seen = observed()
    found = attack_of("masked-loss", masks=3)(seen, seeding.generator(1, "score"))
    generator = seeding.generator(1, "score")
    total = torch.zeros(COUNT, dtype=torch.double)
    for count in (1, 3, 5):  # of six places: a sixth, a half and five sixths
        order = torch.rand(LENGTH, generator=generator).argsort().tolist()
        for row in range(1, COUNT):
            masked = torch.zeros(LENGTH).bool()
            masked[order[:count]] = True
            own = log_odds(weights(1), masked)
            total[row] += sum(float(own[p, seen.candidates.inputs[row, p]]) for p in order[:count]) / count
    assert found[1:].tolist() == pytest.approx((total / 3)[1:].tolist(), rel=1e-6)
