"""Known noise is taken out of the gradient by its spectrum before it is matched."""

from collections.abc import Callable

import pytest
import torch

from attacks.gradient_matching.compensation import _without_noise
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World
from tests.attacks.solving import attacked

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
NOISE = [{"name": "gradient-noise", "scale": 1e-3}]
WIDE = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.0}


def test_what_is_left_lies_nearer_to_the_clients_gradient(watched: Watched) -> None:
    knows = (*KNOWN, "defenses")
    clean = watched(knows=knows, model=WIDE)[0].update.tensors
    noisy, _, _ = watched(knows=knows, model=WIDE, defenses=NOISE)
    left = _without_noise(noisy).update.tensors
    for name, own in clean.items():
        before, after = (float((tensors[name] - own).norm()) for tensors in (noisy.update.tensors, left))
        assert after < 0.7 * before if own.ndim > 1 else torch.equal(left[name], noisy.update.tensors[name])


def test_it_refuses_updates_without_noise_of_one_scale(watched: Watched) -> None:
    observation, _, _ = watched(knows=(*KNOWN, "defenses"), defenses=[{"name": "sign"}])
    with pytest.raises(NotApplicable, match="no defense declares noise of a single scale"):
        attacked("compensation", observation, max_iterations=2)
