"""The convolutional bottleneck stands behind the first block of any model."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from defenses.model.cvb import ConvolutionalBottleneck, Cvb, CvbConfig
from fedsim.core.types.effects import UnreliableTensors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.paper_step("cvb", "bottleneck after the first block")
@pytest.mark.parametrize(
    ("model", "place"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)), "1.1"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.Flatten()), "2.1"),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3), nn.ReLU()), "0.1"),
        (lambda: torchvision.models.resnet18(num_classes=3), "relu.1"),
    ],
)
def test_cvb_stands_behind_the_first_block(model: Callable[[], nn.Module], place: str) -> None:
    defense = Cvb(CvbConfig())
    prepared = defense.prepare(model(), generator())
    bottleneck = prepared.get_submodule(place)
    assert isinstance(bottleneck, ConvolutionalBottleneck)
    assert isinstance(bottleneck.encode, nn.Conv2d)
    assert bottleneck.encode.out_channels == bottleneck.encode.in_channels
    prepared(torch.ones(2, 3, 32, 32))
    (unreliable,) = (one.names for one in defense.adaptive_view().effects if isinstance(one, UnreliableTensors))
    first = next(name for name, _ in prepared.named_parameters())
    assert first not in unreliable
    assert f"{place}.encode.weight" in unreliable
