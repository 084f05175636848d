"""LeNet: its sizes, and the pixels that it takes."""

import pytest
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.models.lenet import LenetConfig, lenet
from tests.models.sizes import images, mask_values, spec


def test_lenet_has_64_features_at_32_pixels() -> None:
    model = lenet(LenetConfig(), spec(3, 32, 32))
    assert mask_values(model, 3, 32, 32) == (1, 64)
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [16, 32, 64]


@pytest.mark.parametrize("shape", [(1, 29, 29), (3, 40, 33)])
def test_lenet_takes_29_pixels_or_more(shape: tuple[int, ...]) -> None:
    assert lenet(LenetConfig(), spec(*shape))(images(1, *shape)).shape == (1, 10)
    with pytest.raises(FedsimError, match="at least 29 x 29"):
        lenet(LenetConfig(), spec(1, 28, 40))
