"""Gradient matching with the granted masks."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from attacks.core.matching.attack import MatchingConfig
from attacks.core.matching.unknown_masks import GivenMasks
from attacks.gradient_matching.wiig import Wiig
from tests.attacks.solving import attacked
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
attack = partial(attacked, stream=5)


@pytest.mark.paper_step("wiig", "search for the inputs under the client's masks")
def test_the_granted_masks_are_used_and_bring_the_image_back() -> None:
    """Under the client's masks the objective has its minimum at the image; under inverted masks it has not."""
    model = {"name": "mlp", "width": 64, "depth": 3, "dropout": 0.5}
    observation, truth, _ = watched(model=model, knows=(*KNOWN, "masks"))
    (block,) = Wiig(MatchingConfig()).unknowns([observation]).blocks
    assert isinstance(block, GivenMasks)
    (given,) = block.victim_masks
    assert all(torch.equal(ours, own) for ours, own in zip(given, truth.masks[0], strict=True))
    inverted = replace(observation, masks=(tuple(1.0 - mask for mask in observation.masks[0]),))
    found, astray = (attack("wiig", seen, max_iterations=150) for seen in (observation, inverted))
    errors = [float((guess.inputs - truth.batches[0].inputs).square().mean()) for guess in (found, astray)]
    assert found.objective < 0.01
    assert astray.objective > 0.3
    assert errors[0] < 0.1 * errors[1]
