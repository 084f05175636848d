"""Small denoisers are trained once, kept, and the same for a recipe."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attacks.gradient_matching import learned_prior
from fedsim.bench import denoisers
from fedsim.bench.denoisers import DenoiserRecipe, build, data_of, load_trained_denoiser, train
from fedsim.bench.descent import ignore_step
from fedsim.components.sampler import continuous_speculative
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch

TINY = DenoiserRecipe("digits", "digits", {"train": 40, "test": 20}, 3, 8, model={"width": 8, "blocks": 1})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(denoisers, "RECIPES", {"tiny": TINY})
    return tmp_path


def test_a_denoiser_is_trained_once_and_read_back(cache: Path) -> None:
    steps: list[int] = []
    first = load_trained_denoiser("tiny", lambda step: steps.append(step.number))
    second = load_trained_denoiser("tiny", lambda step: steps.append(step.number))
    assert steps == [1, 2, 3]
    assert [folder.name.startswith("tiny-") for folder in cache.iterdir()] == [True]
    assert all(
        torch.equal(tensor, second.model.state_dict()[name]) for name, tensor in first.model.state_dict().items()
    )
    assert not first.model.training


def test_what_is_kept_is_an_average_of_the_way(tmp_path: Path) -> None:
    data = data_of(TINY)
    model = build(TINY, data)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    kept = copy.deepcopy(model)
    train(model, kept, data, TINY, tmp_path / "tiny", ignore_step)
    for first, parameter, last in zip(before, kept.parameters(), model.parameters(), strict=True):
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        if (last - first).abs().max() > 0:
            assert (
                (parameter >= low - 3e-3) & (parameter <= high + 3e-3)
            ).all()  # three steps of Adam are at most 3e-3 long


def test_tiles_are_the_pieces_of_images_in_their_order() -> None:
    whole = data_of(TINY)
    tiles = data_of(replace(TINY, tile=4))
    assert tiles.spec.shape == (1, 4, 4)
    assert len(tiles.train) == 4 * len(whole.train)
    first = whole.train.inputs[0]
    assert torch.equal(tiles.train.inputs[1], first[:, :4, 4:])
    assert torch.equal(tiles.train.inputs[2], first[:, 4:, :4])
    assert tiles.train.labels[:4].tolist() == [int(whole.train.labels[0])] * 4


@pytest.mark.parametrize("name", sorted(denoisers.RECIPES))
def test_every_recipe_trains_a_model_of_its_images(tmp_path: Path, name: str) -> None:
    recipe = replace(denoisers.RECIPES[name], steps=1, batch=2)
    known, channels = data_of(TINY), 3 if recipe.tile else 1
    spec = replace(known.spec, shape=(channels, 16, 16), mean=(0.5,) * channels, std=(0.5,) * channels)
    images = Batch(torch.rand(4, channels, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4))
    data = replace(known, spec=spec, train=images)
    losses: list[float] = []
    model = build(recipe, data)
    train(model, copy.deepcopy(model), data, recipe, tmp_path / name, lambda step: losses.append(step.loss))
    assert len(losses) == 1
    assert 0.0 < losses[0] < 10.0  # images and noise of size one are told from each other by an untrained net


def test_denoisers_that_methods_say_can_be_trained_are_recipes() -> None:
    assert {*learned_prior._TRAINABLE, *continuous_speculative._TRAINABLE} <= set(denoisers.RECIPES)


def test_an_unknown_name_and_a_missing_copy_of_the_photographs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FedsimError, match=r"unknown small denoiser 'digits-net'.*digits-unet"):
        load_trained_denoiser("digits-net")
    monkeypatch.delenv("FEDSIM_CIFAR10", raising=False)
    with pytest.raises(FedsimError, match="Set FEDSIM_CIFAR10 to your own copy"):
        data_of(denoisers.RECIPES["photographs-unet"])
