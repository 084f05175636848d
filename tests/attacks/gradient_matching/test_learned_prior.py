"""A denoiser behind gradient matching: the slope of its prior, its levels, and what it cannot read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.core.matching.attack import MatchingConfig
from attacks.gradient_matching.inverting_gradients import InvertingGradients
from attacks.gradient_matching.learned_prior import LearnedPrior, LearnedPriorConfig, _denoiser, _with_prior
from fedsim.core import seeding
from fedsim.core.denoisers import LoadedDenoiser, save_denoiser
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec, Observation, Step
from fedsim.models.edm_unet import EdmUnetConfig, edm_unet
from tests.attacks.solving import toy

SETTINGS = {"width": 8, "blocks": 1}


def spec(channels: int = 1) -> InputSpec:
    return InputSpec((channels, 8, 8), 4, (0.3,) * channels, (0.4,) * channels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with seeding.isolate_randomness(0):
        save_denoiser(edm_unet(EdmUnetConfig.model_validate(SETTINGS), spec()), SETTINGS, spec(), tmp_path)
    return tmp_path


def small() -> nn.Module:
    with seeding.isolate_randomness(0):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 4))


def attack(folder: Path, **settings: Any) -> LearnedPrior:
    return LearnedPrior(LearnedPriorConfig(denoiser=str(folder), **settings))


def known(channels: int = 1) -> Observation:
    model = small() if channels == 1 else nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    return toy(model, (channels, 8, 8), 1, dtype=torch.float32)[0]


def test_the_slope_of_the_prior_is_what_the_denoiser_takes_away() -> None:
    inputs = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    prior = _with_prior(lambda own, _masks, _victims: own.new_zeros(len(own)), lambda x, s: x / (1 + s), 1.0, 0.6)
    value = prior(inputs, (), [0, 0])
    assert value.shape == (2,)
    (slope,) = torch.autograd.grad(value.sum(), inputs)
    torch.testing.assert_close(slope, 0.6 * (inputs - inputs / 2) / (3 * 64))


def test_the_denoiser_reads_its_own_normalisation() -> None:
    class Darkening(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return torch.full_like(x, float(noise[0]))

    loaded_denoiser = LoadedDenoiser(Darkening(), InputSpec((1, 8, 8), 4, (0.5,), (0.25,)))
    found = _denoiser(loaded_denoiser, spec())(torch.zeros(1, 1, 8, 8), 1.0)
    # 1 in its units is the pixel 0.75, which is (0.75 - 0.3) / 0.4 in those of the observation.
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), 0.45 / 0.4))


def test_levels_share_the_iterations_and_the_last_one_goes_on_from_the_others(folder: Path) -> None:
    steps: list[Step] = []
    method = attack(folder, levels=(1.0, 0.5), max_iterations=20, prior_weight=1.0)
    found = method(known(), seeding.generator(0, "attack"), steps.append)
    assert [step.iteration for step in steps] == list(range(1, 21))
    assert found.inputs.shape == (1, 1, 8, 8)
    assert steps[10].objective < steps[0].objective, "the second level begins where the first one ended"


def test_without_weight_it_is_gradient_matching_bit_by_bit(folder: Path) -> None:
    observation = known()
    settings: dict[str, Any] = {"max_iterations": 30}
    plain = InvertingGradients(MatchingConfig(**settings))(observation, seeding.generator(0, "attack"))
    for weight, is_same in ((0.0, True), (5.0, False)):
        method = attack(folder, levels=(1.0,), prior_weight=weight, **settings)
        found = method(observation, seeding.generator(0, "attack"))
        assert torch.equal(found.inputs, plain.inputs) == is_same


def test_a_denoiser_of_other_images_or_none_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"reads images \(1, 8, 8\), and an example is \(3, 8, 8\)"):
        attack(folder)(known(3), seeding.generator(0, "attack"))
    with pytest.raises(NotApplicable, match="no trained denoiser.* Known: digits-unet, photographs-unet"):
        attack(tmp_path / "none")(known(), seeding.generator(0, "attack"))
    blind = replace(known(), threat=known().threat.model_copy(update={"knows": ("labels", "batch-size")}))
    with pytest.raises(NotApplicable, match="input-statistics"):
        attack(folder)(blind, seeding.generator(0, "attack"))
