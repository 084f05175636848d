"""Values of pixels, beside SciPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from attacks.core.pixels import median_filtered, pixel_box
from fedsim.core.types import InputSpec, Observation

Watched = Callable[..., tuple[Observation, Any, Any]]


def test_the_box_is_the_pixel_range(watched: Watched) -> None:
    observation, _, _ = watched()
    observation = type(observation)(**{**vars(observation), "spec": InputSpec((2, 3, 3), 4, (0.5, 0.2), (0.25, 0.1))})
    low, high = pixel_box(observation)
    assert low.flatten().tolist() == pytest.approx([-2.0, -2.0])
    assert high.flatten().tolist() == pytest.approx([2.0, 8.0])


@given(st.integers(2, 6), st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_the_median_filter_is_scipys(height: int, width: int) -> None:
    images = torch.rand(2, 1, 2, height, width)
    ours = median_filtered(images)
    for filtered, image in zip(ours.view(-1, height, width), images.view(-1, height, width), strict=True):
        assert np.array_equal(filtered.numpy(), median_filter(image.numpy(), size=3, mode="mirror"))
