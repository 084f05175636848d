"""Dense layers score every pixel of any image."""

import pytest
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.models.mask_mlp import MaskMlpConfig, mask_mlp
from tests.models.sizes import images, mask_values, spec


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_every_pixel_has_a_score_of_each_class(shape: tuple[int, int, int]) -> None:
    model = mask_mlp(MaskMlpConfig(width=6, dropout=0.5), spec(*shape, classes=3))
    assert model(images(2, *shape)).shape == (2, 3, *shape[1:])
    assert mask_values(model, *shape) == (1, 6)


def test_each_score_sees_the_whole_image() -> None:
    model = mask_mlp(MaskMlpConfig(), spec(1, 4, 4, classes=2))
    changed = images(1, 1, 4, 4)
    changed[0, 0, 0, 0] += 1
    assert bool((model(changed) != model(images(1, 1, 4, 4))).all())
    assert isinstance(model[1], nn.Linear)


def test_rows_are_refused() -> None:
    with pytest.raises(FedsimError, match=r"model 'mask-mlp' reads images \(C, H, W\), got shape \(5,\)"):
        mask_mlp(MaskMlpConfig(), spec(5))
