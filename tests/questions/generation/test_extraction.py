"""What counts as a copy of a training image."""

import torch

from fedsim.questions.generation.extraction import copied_share, image_extraction_rate, is_among, nearness


def images() -> torch.Tensor:
    return torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_copies_are_copies_and_new_images_are_none() -> None:
    known, new = images()[:100], images()[100:]
    nearly = known[:10] + 0.01
    assert copied_share(nearly, known).value == 1
    assert copied_share(new, known).value == 0
    assert nearness(nearly, known)[1].tolist() == list(range(10))


def test_an_image_that_is_repeated_is_no_neighbour_of_itself() -> None:
    known = torch.cat((images()[:100], images()[:1].expand(60, -1, -1, -1)))
    assert copied_share(images()[:1] + 0.01, known).value == 1


def test_a_sample_is_an_image_again_within_a_tenth_of_the_range() -> None:
    image = images()[0]
    assert is_among(torch.stack((images()[1], image + 0.09)), image)
    assert not is_among((image + 0.11)[None], image)
    assert image_extraction_rate([True, False]).value == 0.5
