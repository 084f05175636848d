"""A denoising client's image, from one gradient: with its noise and level told, and searched."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from attacks.core.matching.attack import MatchingConfig
from attacks.gradient_matching.denoiser_inversion import DenoiserInversion, DenoiserInversionConfig
from attacks.gradient_matching.inverting_gradients import InvertingGradients
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Batch, Config, InputSpec
from fedsim.models.edm_unet import EdmUnetConfig, edm_unet
from fedsim.tasks.classification import Classification
from tests.attacks.core.matching.measures import alone
from tests.attacks.gradient_matching.denoising_client import Client, client_step

SPEC = InputSpec((1, 8, 8), 4, (0.5,), (0.5,))


def step(count: int = 1, *, classes: bool = False, told: bool = False) -> Client:
    with seeding.isolate_randomness(0):
        model = edm_unet(EdmUnetConfig(width=8, blocks=1, classes=classes), SPEC)
    inputs = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(inputs, torch.arange(count) % 4)
    return client_step(model, SPEC, batch, 3, classes=classes, level=0.5, grants_draws=told)


def attack(**settings: Any) -> DenoiserInversion:
    return DenoiserInversion(DenoiserInversionConfig(priors=(), **settings))


@pytest.mark.parametrize("classes", [False, True])
def test_at_the_truth_the_objective_vanishes(classes: bool) -> None:
    own = step(2, classes=classes)
    method = attack()
    search = method.plan(alone(own.observation))
    z = (own.draws["task.level"].log() + 0.5) / 1.2
    others = {"noise": (own.draws["task.noise"][None],), "level": (z[None],)}
    comparison = method.comparison([own.observation], search)
    found = comparison.gradients(own.batch.inputs[None], (), own.batch.labels[None], [0], others)
    assert abs(float(search.distance(found).detach())) < 1e-5  # a cosine in single precision
    wrong = {**others, "level": (z[None] + 0.5,)}
    other = search.distance(comparison.gradients(own.batch.inputs[None], (), own.batch.labels[None], [0], wrong))
    assert float(other.detach()) > 1e-4


@pytest.mark.slow
def test_granted_draws_are_no_unknowns_and_the_image_is_found() -> None:
    own = step(told=True)
    method = attack(max_iterations=100, schedule="cosine")
    assert not method.plan(alone(own.observation)).unknowns.blocks
    found = method(own.observation, seeding.generator(0, "attack"))
    error = (found.inputs - own.batch.inputs).square().mean().sqrt()
    # Pixels are spread by 0.58; a search that converges is far below a tenth of that.
    assert float(error) < 0.05
    assert "noise level found, of the first example" not in found.diagnostics


def test_unknown_draws_are_searched_and_the_level_is_told() -> None:
    own = step()
    found = attack(max_iterations=5)(own.observation, seeding.generator(0, "attack"))
    assert found.diagnostics["noise level found, of the first example"] > 0
    assert found.inputs.shape == own.batch.inputs.shape


def test_other_tasks_are_refused_and_attacks_that_search_no_draws_refuse_this_one() -> None:
    own = step()
    with pytest.raises(NotApplicable, match="has draws of its own.*denoiser-inversion"):
        InvertingGradients(MatchingConfig())(own.observation, seeding.generator(0, "attack"))
    other = replace(own.observation, task=Classification(Config()).with_name("classification"))
    with pytest.raises(NotApplicable, match="task is 'classification'"):
        attack()(other, seeding.generator(0, "attack"))
    unknown = replace(step(classes=True).observation, labels=None)
    with pytest.raises(NotApplicable, match="conditioned on classes, which are not known"):
        attack()(unknown, seeding.generator(0, "attack"))
