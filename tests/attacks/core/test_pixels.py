"""Range of pixels."""

import pytest

from attacks.core.pixels import pixel_box
from fedsim.core.types import InputSpec
from tests.federating import watched


def test_the_box_is_the_pixel_range() -> None:
    observation, _, _ = watched()
    observation = type(observation)(**{**vars(observation), "spec": InputSpec((2, 3, 3), 4, (0.5, 0.2), (0.25, 0.1))})
    low, high = pixel_box(observation)
    assert low.flatten().tolist() == pytest.approx([-2.0, -2.0])
    assert high.flatten().tolist() == pytest.approx([2.0, 8.0])
