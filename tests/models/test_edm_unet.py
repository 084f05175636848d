"""The EDM U-Net: preconditioning, skips from the bottom up, classes, masks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.skips import Skip, skips_of
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import masks
from fedsim.models.edm_unet import EdmUnet, EdmUnetConfig, edm_unet
from tests.models.sizes import images, spec


def build(shape: tuple[int, ...] = (1, 8, 8), **settings: Any) -> EdmUnet:
    with seeding.isolate_randomness(0):
        model = edm_unet(EdmUnetConfig(**({"width": 8, "blocks": 1} | settings)), spec(*shape))
    assert isinstance(model, EdmUnet)
    return model.eval()


def test_preconditioning_is_that_of_the_paper() -> None:
    model, x, s = build(data_std=0.5), images(2, 1, 8, 8), torch.tensor([0.3, 4.0])
    seen: list[tuple[Tensor, ...]] = []
    model.network.register_forward_pre_hook(lambda _own, given: seen.append(given))
    found = model(x, s)
    for row in range(2):
        level = float(s[row])
        total = level**2 + 0.25
        torch.testing.assert_close(seen[0][0][row], x[row] / math.sqrt(total))
        assert float(seen[0][1][row]) == pytest.approx(math.log(level) / 4)
        answer = model.network(*seen[0])[row]
        torch.testing.assert_close(found[row], 0.25 / total * x[row] + level * 0.5 / math.sqrt(total) * answer)


def test_without_noise_the_answer_is_the_image_and_under_much_noise_it_hardly_depends_on_it() -> None:
    model, x = build(), images(1, 1, 8, 8)
    torch.testing.assert_close(model(x, torch.tensor([1e-6])), x, rtol=1e-4, atol=1e-4)  # c_out is 1e-6
    loud, other = model(1e6 * x, torch.tensor([1e6])), model(1e6 * x + 1, torch.tensor([1e6]))
    torch.testing.assert_close(loud, other, rtol=1e-3, atol=1e-3)  # c_skip x and c_in x change by 1e-6


def test_skips_are_taken_up_from_the_lowest_resolution_in_the_order_of_the_list() -> None:
    model = build((1, 16, 16), multipliers=(1, 2, 2), blocks=2)
    seen: list[tuple[nn.Module, int]] = []
    for module in model.modules():
        if isinstance(module, Skip):
            module.register_forward_hook(lambda module, given, _out: seen.append((module, given[1].shape[-1])))
    model(images(1, 1, 16, 16), torch.ones(1))
    assert [module for module, _ in seen] == skips_of(model)
    assert [side for _, side in seen] == [4, 4, 4, 8, 8, 8, 16, 16, 16]


def test_a_class_changes_the_answer_and_none_is_a_class_of_its_own() -> None:
    model, x, s = build(classes=True), images(2, 1, 8, 8), torch.ones(2)
    assert model.classes == 10
    assert torch.equal(model(x, s), model(x, s, torch.tensor([-1, -1])))
    assert not torch.equal(model(x, s), model(x, s, torch.tensor([0, 3])))
    assert build().classes == 0


def test_masks_of_its_dropout_can_be_injected() -> None:
    model, x, s = build(dropout=0.5).train(), images(2, 1, 8, 8), torch.ones(2)
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        drawn = model(x, s)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        assert torch.equal(model(x, s), drawn)
    assert recording.masks


def test_an_image_does_not_depend_on_those_beside_it_and_has_second_derivatives() -> None:
    model, x, s = build(), images(3, 1, 8, 8), torch.tensor([0.1, 1.0, 9.0])
    torch.testing.assert_close(model(x, s)[1:2], model(x[1:2], s[1:2]))
    own = x.clone().requires_grad_()
    slopes = torch.autograd.grad(model(own, s).square().sum(), list(model.parameters()), create_graph=True)
    torch.stack([slope.square().sum() for slope in slopes]).sum().backward()
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())


def test_sides_that_cannot_be_halved_are_named() -> None:
    with pytest.raises(FedsimError, match="halves images 2 times, and they have 10 x 10 pixels.*multiples of 4"):
        build((1, 10, 10), multipliers=(1, 2, 2))
