"""Gradient matching with the granted masks."""

from collections.abc import Callable
from functools import partial

import torch

from attacks.core.matching.comparison import GeneralComparison
from attacks.core.matching.ghost import GhostComparison
from fedsim.core.types import (
    Observation,
    Truth,
)
from fedsim.scenario.world import World
from tests.attacks.solving import attacked

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
PATHS = (GeneralComparison, GhostComparison)
attack = partial(attacked, stream=5)


def test_ig_after_wiig_on_the_same_model_object_is_as_on_a_fresh_one(watched: Watched) -> None:
    fresh, _, _ = watched(knows=(*KNOWN, "masks"))
    used, _, _ = watched(knows=(*KNOWN, "masks"))
    attack("wiig", used, max_iterations=10)
    attack("dropout-inversion", used, max_iterations=10)
    after = attack("inverting-gradients", used, max_iterations=10)
    assert torch.equal(after.inputs, attack("inverting-gradients", fresh, max_iterations=10).inputs)
