"""ResNet-18 against torchvision's own with groups."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet

from fedsim.core import seeding
from fedsim.models.resnet18 import Resnet18Config, resnet18
from tests.models.sizes import images, mask_values, parameters, spec


def test_resnet18_is_the_one_of_torchvision_with_groups() -> None:
    with seeding.isolate_randomness(0):
        own = resnet18(Resnet18Config(), spec(3, 32, 32)).eval()
        oracle = resnet.resnet18(num_classes=10, norm_layer=lambda channels: nn.GroupNorm(2, channels)).eval()
    weights = zip(oracle.state_dict(), own.state_dict().values(), strict=True)
    oracle.load_state_dict(dict(weights))
    with torch.no_grad():
        assert torch.allclose(own(images(2, 3, 64, 64)), oracle(images(2, 3, 64, 64)), atol=1e-5)


def test_resnet18_starts_from_the_initialisation_of_he() -> None:
    with seeding.isolate_randomness(0):
        model = resnet18(Resnet18Config(), spec(3, 32, 32))
    for weight in (p for p in model.parameters() if p.ndim == 4):
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert float(weight.detach().std() * (fan_out / 2) ** 0.5) == pytest.approx(1, abs=0.05)


def test_resnet18_with_the_small_stem_keeps_all_pixels() -> None:
    model = resnet18(Resnet18Config(stem="3x3"), spec(3, 32, 32))
    assert parameters(model) == 11_173_962
    assert mask_values(model, 3, 32, 32) == (1, 512)
    with torch.no_grad():
        assert nn.Sequential(*list(model.children())[:3])(images(1, 3, 32, 32)).shape == (1, 64, 32, 32)


def test_a_narrow_resnet18_has_so_many_channels_and_units_of_its_choice() -> None:
    model = resnet18(Resnet18Config(width=4, activation="silu", stem="3x3"), spec(1, 8, 8))
    shapes = [weight.shape[0] for weight in model.parameters() if weight.ndim == 4]
    assert sorted(set(shapes)) == [4, 8, 16, 32]
    kinds = {type(module) for module in model.modules()}
    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds
    assert model(images(2, 1, 8, 8)).shape == (2, 10)
