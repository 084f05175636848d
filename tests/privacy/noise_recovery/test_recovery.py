"""All means together: a seed that fits ends the search, and a refusal has both reasons."""

import torch

from fedsim.privacy.noise_recovery.recovery import recover_noise


def test_a_seed_that_fits_ends_the_search():
    noise = torch.empty(40, 5).normal_(generator=torch.Generator().manual_seed(8))
    outcome = recover_noise([noise], most_seeds=20)
    assert (outcome.source, outcome.equations) == ("seed 8", 0)


def test_a_refusal_says_what_was_tried():
    noise = torch.empty(40, 5).normal_(generator=torch.Generator().manual_seed(8_000_009))
    said = str(recover_noise([noise], most_seeds=20))
    assert "no small or usual seed" in said
    assert "200 values are too few" in said
