"""Dropout layers of our own families are torch's."""

from collections.abc import Callable

import pytest
from torch import nn

from fedsim.models.convnet import ConvnetConfig, convnet
from fedsim.models.lenet import LenetConfig, lenet
from fedsim.models.vit_small import VitSmallConfig, vit_small
from tests.models.sizes import spec


@pytest.mark.parametrize(
    "build",
    [
        lambda: lenet(LenetConfig(), spec(3, 32, 32)),
        lambda: convnet(ConvnetConfig(), spec(3, 32, 32)),
        lambda: vit_small(VitSmallConfig(), spec(3, 32, 32)),
    ],
)
def test_dropout_is_the_one_of_torch(build: Callable[[], nn.Module]) -> None:
    drops = [module for module in build().modules() if "Dropout" in type(module).__name__]
    assert drops
    assert all(type(module) is nn.Dropout for module in drops)
