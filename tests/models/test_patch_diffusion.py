"""Patch diffusion: patches see those before them alone, and the head's steps are those of the paper."""

import math
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.models.patch_diffusion import PatchDiffusion, PatchDiffusionConfig, patch_diffusion
from tests.components.sampler.exact_head import learned
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


@pytest.mark.paper_step("continuous-speculative", "variances that the head learns")
def test_learned_variances_are_those_of_the_posterior_so_that_numbers_get_the_variance_of_the_data() -> None:
    """Data N(0, 0.6): E[e | x] and Var[e | x] are known, and every step down must be the true posterior's."""
    levels, variance = 5, 0.6
    model, x = learned(variance, levels), torch.linspace(-2, 2, 9, dtype=torch.double)[:, None]
    share, blank = model.share.double(), torch.zeros(9, 1, dtype=torch.double)
    for level in range(1, levels + 1):
        now, before = float(share[level]), float(share[level - 1])
        whole, step = now * variance + 1 - now, now / before
        one_up = (
            before * variance + 1 - before
        )  # the law of numbers at the level below; x = sqrt(step) of it, and noise
        mean, std = model.reverse(x, level, blank)
        torch.testing.assert_close(mean, math.sqrt(step) * one_up / whole * x, rtol=1e-4, atol=1e-4)  # single precision
        assert float(std[0]) == pytest.approx(math.sqrt(one_up - step * one_up**2 / whole), rel=1e-3)


def test_a_learned_variance_never_leaves_the_published_range() -> None:
    model, x, condition = build(variance="learned", levels=4), images(3, 16), images(3, 16)
    for wanted in (-30.0, 30.0):
        torch.nn.init.constant_(model.head.leave.bias[model.size :], wanted)
        for level in (1, 2, 3, 4):
            now, before = float(model.share[level]), float(model.share[level - 1])
            least = math.sqrt((1 - before) / (1 - now) * (1 - now / before))
            std = model.reverse(x, level, condition)[1]
            expected = max(least, 1e-3) if wanted < 0 else math.sqrt(1 - now / before)
            torch.testing.assert_close(std, torch.full_like(std, expected), rtol=1e-4, atol=1e-4)


def test_in_random_order_a_patch_is_told_those_before_it_in_that_order_and_which_place_comes_next() -> None:
    model, x = build(order="random"), images(1, 1, 8, 8)
    time, noise = torch.tensor([0.4]), images(1, 1, 8, 8)
    order = torch.zeros(1, 8, 8)
    order[0, ::4, ::4] = torch.tensor([[2.0, 0.0], [3.0, 1.0]])  # places 1, 3, 0, 2
    changed = model.cut(x).clone()
    changed[0, 0] += 1
    first, second = (model.cut(model(own, time, noise, order=order)) for own in (x, model.join(changed)))
    # Place 0 itself is noisy, place 2 comes behind it.
    assert ((first - second).abs().amax(-1)[0] > 1e-6).tolist() == [True, False, True, False]
    places = torch.tensor([[1, 3, 0, 2]])
    conditions = model.conditions(model.cut(x)[:, [1, 3]], order=places)
    share = model.share[1 + int(0.4 * 20)]
    noisy = share.sqrt() * model.cut(x)[0] + (1 - share).sqrt() * model.cut(noise)[0]
    by_hand = model.head(noisy[[1, 3, 0]], torch.full((3,), 9), conditions[0])
    torch.testing.assert_close(first[0, [1, 3, 0]], by_hand)
    other = model.conditions(model.cut(x)[:, [1, 3]], order=torch.tensor([[1, 3, 2, 0]]))
    assert torch.equal(conditions[:, :2], other[:, :2]), "the first two are told of the same places"
    assert not torch.allclose(conditions[:, 2], other[:, 2])
    ahead = model.conditions(model.cut(x)[:, :2])
    torch.testing.assert_close(ahead, model.conditions(model.cut(x)[:, :2], order=torch.tensor([[0, 1, 2, 3]])))


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
