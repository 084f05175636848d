"""Total variation, beside brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.core.matching.priors.total_variation import total_variation


@pytest.mark.paper_step("inverting-gradients", "total variation")
@given(st.integers(2, 5), st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_total_variation_is_the_mean_of_absolute_differences(height: int, width: int) -> None:
    rows = torch.rand(2, 2, 3, height, width)
    for image, ours in zip(rows, total_variation(rows), strict=True):
        across = sum(float((image[..., j + 1] - image[..., j]).abs().sum()) for j in range(width - 1))
        down = sum(float((image[..., i + 1, :] - image[..., i, :]).abs().sum()) for i in range(height - 1))
        expected = across / (6 * height * (width - 1)) + down / (6 * width * (height - 1))
        assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_with_zeros_beyond_the_border_it_is_the_convolution_of_breaching() -> None:
    """breaching convolves with (-1, 1) and its transpose, padded by one on all sides, and takes means of sums."""
    image = torch.rand(1, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([[0.0, 0, 0], [0, -1, 1], [0, 0, 0]])
    weight = torch.stack([kernel.T, kernel] * 3)[:, None]
    differences = torch.nn.functional.conv2d(image[0], weight, padding=1, groups=3).abs()
    expected = (differences[:, 0::2] + differences[:, 1::2]).mean()
    assert float(total_variation(image, 1)) == pytest.approx(
        float(expected), rel=1e-5
    )  # rounding of means of some hundred differences


def test_total_variation_of_what_is_no_image_is_nothing() -> None:
    assert total_variation(torch.rand(3, 2, 7)).tolist() == [0.0] * 3
