"""Priors on images, beside brute force and SciPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter

from attacks.core.regularizers import median_filtered, pixel_box, total_variation
from fedsim.core.types import InputSpec, Observation

Watched = Callable[..., tuple[Observation, Any, Any]]


@given(st.integers(2, 5), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_total_variation_is_the_mean_of_absolute_differences(height: int, width: int) -> None:
    rows = torch.rand(2, 2, 3, height, width)
    for image, ours in zip(rows, total_variation(rows), strict=True):
        across = sum(float((image[..., j + 1] - image[..., j]).abs().sum()) for j in range(width - 1))
        down = sum(float((image[..., i + 1, :] - image[..., i, :]).abs().sum()) for i in range(height - 1))
        expected = across / (6 * height * (width - 1)) + down / (6 * width * (height - 1))
        assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_total_variation_of_what_is_no_image_is_nothing() -> None:
    assert total_variation(torch.rand(3, 2, 7)).tolist() == [0.0] * 3


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
