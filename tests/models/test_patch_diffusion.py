"""Patch diffusion: patches see those before them alone, and the head's steps are those of the paper."""

from typing import Any

import pytest
import torch

from fedsim.core import masks, seeding
from fedsim.core.errors import FedsimError
from fedsim.models.patch_diffusion import PatchDiffusion, PatchDiffusionConfig, patch_diffusion
from tests.models.sizes import images, spec


def build(shape: tuple[int, ...] = (1, 8, 8), **settings: Any) -> PatchDiffusion:
    sizes = {"width": 16, "blocks": 2, "hidden": 16, "head_width": 8, "head_layers": 1}
    with seeding.isolate_randomness(0):
        model = patch_diffusion(PatchDiffusionConfig(**{**sizes, **settings}), spec(*shape))
    assert isinstance(model, PatchDiffusion)
    return model.eval()


def test_patches_are_cut_in_the_order_of_reading_and_joined_again() -> None:
    model, x = build((3, 8, 8)), images(2, 3, 8, 8)
    patches = model.cut(x)
    assert patches.shape == (2, 4, 48)
    assert torch.equal(patches[0, 1].view(3, 4, 4), x[0, :, :4, 4:])
    assert torch.equal(model.join(patches), x)


def test_a_patch_is_told_those_before_it_alone() -> None:
    model, x = build(), images(1, 1, 8, 8)
    time, drawn = torch.tensor([0.4]), torch.zeros(1, 1, 8, 8)
    other = model.cut(x).clone()
    other[0, 2] += 1
    first, second = (model.cut(model(own, time, drawn)) for own in (x, model.join(other)))
    changed = (first - second).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, True, True]
    conditions = model.conditions(model.cut(x))
    torch.testing.assert_close(conditions[:, :3], model.conditions(model.cut(x)[:, :2]))


def test_steps_down_are_the_posterior_of_what_the_head_guesses() -> None:
    model = build(levels=10)
    x, condition = images(3, 16), images(3, 16)
    share = model.share
    assert float(share[0]) == 1.0
    assert float(share[-1]) < 1e-3
    mean, std = model.reverse(x, 4, condition)
    noise = model.head(x, torch.full((3,), 4), condition)
    guess = ((x - (1 - share[4]).sqrt() * noise) / share[4].sqrt()).clamp(-3, 3)
    step = share[4] / share[3]
    by_hand = share[3].sqrt() * (1 - step) / (1 - share[4]) * guess
    by_hand = by_hand + step.sqrt() * (1 - share[3]) / (1 - share[4]) * x
    torch.testing.assert_close(mean, by_hand)
    assert float(std[0, 0]) == pytest.approx(float(((1 - share[3]) / (1 - share[4]) * (1 - step)).sqrt()), rel=1e-6)
    assert torch.equal(model.reverse(x, 1, condition)[1], model.reverse(x, 2, condition)[1]), "the last step has noise"


def test_classes_and_masks() -> None:
    model, x = build(classes=True), images(1, 1, 8, 8)
    assert torch.equal(model(x), model(x, labels=torch.tensor([-1])))
    assert not torch.equal(model(x), model(x, labels=torch.tensor([3])))
    dropping = build(dropout=0.5).train()
    with masks.record_masks(dropping, torch.Generator().manual_seed(1)) as recording:
        drawn = dropping(x)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        assert torch.equal(dropping(x), drawn)


def test_patches_that_do_not_fill_the_image_and_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(FedsimError, match=r"patches of 3 pixels a side, which do not fill 8 x 8.*model\.patch"):
        build(patch=3)
    with pytest.raises(FedsimError, match="4 heads and width 12"):
        build(width=12)
