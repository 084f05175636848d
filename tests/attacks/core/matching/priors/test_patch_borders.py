"""Borders of patches, beside sums written out."""

import pytest
import torch

from attacks.core.matching.priors.patch_borders import border_differences


@pytest.mark.paper_step("gradvit", "prior on patch borders")
def test_borders_are_those_between_patches_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, 3, 1, 8, 12), generator=generator)
    expected = torch.stack(
        [
            (image[:, :, 4] - image[:, :, 3]).norm()
            + sum((image[..., column] - image[..., column - 1]).norm() for column in (4, 8))
            for image in images
        ]
    )
    torch.testing.assert_close(border_differences(images, [4], [4, 8]), expected)
    flat = torch.ones(1, 1, 1, 8, 8)
    flat[..., 1:3, 1:3] = 5.0
    assert float(border_differences(flat, [4], [4])) < 1e-12
