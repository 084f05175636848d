"""What models of images and of windows say of what they cannot read."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models._inputs import as_windows, image_shape, window_shape
from tests.models.sizes import spec


def test_images_give_their_shape_and_others_a_sentence() -> None:
    assert image_shape(spec(3, 20, 30), "own", 20) == (3, 20, 30)
    with pytest.raises(FedsimError, match=r"'own' reads images .* got inputs of shape \(12,\)"):
        image_shape(InputSpec((12,), 2, (), ()), "own")
    with pytest.raises(FedsimError, match=r"at least 29 x 29 pixels, got 28 x 40. Set data.size = 32"):
        image_shape(spec(1, 28, 40), "own", 29)
    with pytest.raises(FedsimError, match=r"Set data.size = 48"):
        image_shape(spec(1, 28, 40), "own", 48)


def test_windows_stay_and_images_give_their_rows() -> None:
    assert window_shape(InputSpec((6, 2), 3, (0.0,) * 6, (1.0,) * 6), "own") == (6, 2)
    assert window_shape(spec(3, 20, 30), "own") == (20, 90)
    with pytest.raises(FedsimError, match=r"'own' reads images or windows .* got shape \(12,\)"):
        window_shape(InputSpec((12,), 2, (), ()), "own")
    windows, images = torch.rand(4, 6, 2), torch.rand(4, 3, 5, 7)
    assert as_windows(windows) is windows
    assert torch.equal(as_windows(images)[:, 1], images[:, :, 1].flatten(1))
