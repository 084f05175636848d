"""The convolutional network takes any size."""

import pytest
from torch import nn

from fedsim.models.convnet import ConvnetConfig, convnet
from tests.models.sizes import images, spec


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 30), (2, 1, 1)])
def test_convnet_takes_any_size(shape: tuple[int, ...]) -> None:
    for normalisation in ("none", "group"):
        model = convnet(ConvnetConfig(normalisation=normalisation), spec(*shape))
        assert model(images(2, *shape)).shape == (2, 10)
    assert sum(isinstance(module, nn.GroupNorm) for module in model.modules()) == 4
