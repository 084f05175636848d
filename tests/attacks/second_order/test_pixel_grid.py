"""The contrast of an image whose pixels lie on a grid."""

import pytest
import torch

from attacks.second_order._pixel_grid import snap

MEAN, STD = (0.3, 0.5, 0.4), (0.4, 0.2, 0.3)


def image(channels: int) -> torch.Tensor:
    pixels = torch.randint(256, (channels, 6, 6), generator=torch.Generator().manual_seed(0)).float() / 255
    centres, spreads = (torch.tensor(values[:channels]).view(-1, 1, 1) for values in (MEAN, STD))
    return (pixels - centres) / spreads


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("contrast", [0.5, 0.97, 2.0])
def test_an_image_of_another_contrast_comes_back_bit_by_bit(channels: int, contrast: float) -> None:
    truth = image(channels)
    noise = 1e-5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    snapped = snap(contrast * truth.double() + noise, 255, MEAN[:channels], STD[:channels])
    assert torch.equal(snapped.image, truth)
    assert snapped.contrast == pytest.approx(1 / contrast, rel=1e-4)  # ten times the noise
    assert snapped.farthest < 0.02  # the noise is some thousandths of a step


def test_an_image_that_lies_on_no_grid_is_far_from_it() -> None:
    noise = torch.randn((1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert snap(noise, 255, (0.3,), (0.4,)).farthest > 0.2
