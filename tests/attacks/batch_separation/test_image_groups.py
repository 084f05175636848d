"""Tokens are sorted into images by how much they look alike."""

import torch

from attacks.batch_separation._image_groups import group_tokens


def test_tokens_of_two_images_are_told_apart_and_the_best_grouping_comes_first() -> None:
    images = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    positions = torch.arange(4).repeat_interleave(2)
    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    affinities = (images[:, None] == images).double() + 0.05 * (noise + noise.T)
    found = group_tokens(affinities, positions, 2)[0]
    assert torch.equal(found.images[:, None] == found.images, images[:, None] == images)
    assert found.margin > 0


def test_a_single_image_needs_no_affinities() -> None:
    (found,) = group_tokens(torch.zeros(3, 3), torch.arange(3), 1)
    assert found.images.tolist() == [0, 0, 0]
    assert found.margin == torch.inf
