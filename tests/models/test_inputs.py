"""What a model of images says of what it cannot read."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models._inputs import image_shape
from tests.models.sizes import spec


def test_images_give_their_shape_and_others_a_sentence() -> None:
    assert image_shape(spec(3, 20, 30), "own", 20) == (3, 20, 30)
    with pytest.raises(FedsimError, match=r"'own' reads images .* got inputs of shape \(12,\)"):
        image_shape(InputSpec((12,), 2, (), ()), "own")
    with pytest.raises(FedsimError, match=r"at least 29 x 29 pixels, got 28 x 40. Set data.size = 32"):
        image_shape(spec(1, 28, 40), "own", 29)
    with pytest.raises(FedsimError, match=r"Set data.size = 48"):
        image_shape(spec(1, 28, 40), "own", 48)
