"""Surrogate model extension, from end to end."""

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from tests.attacks.solving import attack_named
from tests.federating import watched


def test_one_step_is_gradient_matching() -> None:
    model = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}
    observation, _, _ = watched(model=model, federation={"batch_size": 2})
    settings = {"max_iterations": 60, "schedule": "steps"}
    ours, plain = (
        attack_named(name, **settings)(observation, seeding.generator(1, "attack"))
        for name in ("sme", "inverting-gradients")
    )
    assert torch.equal(ours.inputs, plain.inputs)
    assert ours.history == plain.history


@pytest.mark.paper_step("sme", "place of the surrogate as an unknown")
def test_the_place_is_learned_reported_and_kept_in_its_range() -> None:
    observation, _, _ = watched(federation={"algorithm": "fedavg", "local_steps": 4, "batch_size": 2})
    place = "place between received (0) and trained weights (1)"
    for rate, low, high in ((0.0, 0.5, 0.5), (1e-3, 0.4, 0.6), (1.0, 0.0, 1.0)):
        guess = attack_named("sme", max_iterations=30, place_learning_rate=rate, path="quadratic")(
            observation, seeding.generator(1, "attack")
        )
        assert low <= guess.diagnostics[place] <= high
        assert guess.diagnostics["distance of the control point from the middle, by |D|"] > 0.0
        assert guess.masks is None


@pytest.mark.parametrize("distance", ["squared", "layer-cosine", "gaussian-kernel", "l1"])
def test_the_surrogate_s_gradient_is_compared_by_any_distance(distance: str) -> None:
    observation, _, _ = watched(federation={"algorithm": "fedavg", "local_steps": 4, "batch_size": 2})
    sme = attack_named("sme", max_iterations=40, schedule="cosine", distance=distance, priors=["squared-norm"])
    guess = sme(observation, seeding.generator(1, "attack"))
    assert guess.objective < 0.9 * guess.history[0][1]


def test_hidden_tensors_leave_the_trained_weights_unknown() -> None:
    several = {"algorithm": "fedavg", "local_steps": 2}
    observation, _, _ = watched(federation=several, threat={"visible_parameters": ("1.*",)})
    with pytest.raises(NotApplicable, match="the trained weights are not known"):
        attack_named("sme")(observation, seeding.generator(1, "attack"))
