"""Convolutions score every pixel of any image, from its neighbourhood."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.models.mask_convnet import MaskConvnetConfig, mask_convnet
from tests.models.sizes import images, spec


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_every_pixel_has_a_score_of_each_class(shape: tuple[int, int, int]) -> None:
    model = mask_convnet(MaskConvnetConfig(channels=4, depth=3), spec(*shape, classes=3))
    assert model(images(2, *shape)).shape == (2, 3, *shape[1:])


def test_a_score_sees_as_far_as_there_are_layers() -> None:
    model = mask_convnet(MaskConvnetConfig(channels=4, depth=2), spec(1, 8, 8, classes=1))
    changed = images(1, 1, 8, 8)
    changed[0, 0, 0, 0] += 1
    differs = (model(changed) != model(images(1, 1, 8, 8)))[0, 0]
    assert bool(differs[:3, :3].all())
    assert int(differs.sum()) == 9


def test_rows_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"model 'mask-convnet' reads images \(C, H, W\), got shape \(5,\)"):
        mask_convnet(MaskConvnetConfig(), spec(5))
