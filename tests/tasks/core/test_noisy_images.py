"""Tasks of images with noise: the loss on a test set is the mean over images and draws, whatever the batches."""

import pytest
import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, Draws, InputSpec
from fedsim.tasks.core.noisy_images import NoisyImageConfig, NoisyImageTask
from fedsim.tasks.core.noisy_images import test_denoising_loss as mean_loss


class Plain(NoisyImageTask[NoisyImageConfig]):
    """Noise of one number an image, which is the loss."""

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        return {"level": torch.rand(len(batch), generator=generator)}

    def outputs(self, model: object, batch: Batch, draws: Draws) -> Tensor:
        return draws["level"]

    def targets(self, batch: Batch, draws: Draws) -> Tensor:
        return batch.labels.float()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs + targets


def data(shape: tuple[int, ...] = (1, 4, 4), count: int = 300) -> Dataset:
    batch = Batch(torch.zeros(count, *shape), torch.arange(count) % 3)
    return Dataset(batch, batch, InputSpec(shape, 3, (0.5,) * shape[0], (0.25,) * shape[0]), ("a", "b", "c"))


def test_every_image_counts_once_for_each_draw() -> None:
    own, source = Plain(NoisyImageConfig(drawn_in_tests=2)), torch.Generator().manual_seed(0)
    found = own.evaluate(lambda images: images, data(), source)["test_denoising_loss"]
    again = torch.Generator().manual_seed(0)
    levels = [torch.rand(size, generator=again) for size in (256, 256, 44, 44)]
    assert found == pytest.approx(float(torch.cat(levels).mean()) + 1.0, rel=1e-6)


def test_outputs_are_images_and_rows_of_numbers_are_refused() -> None:
    own = Plain(NoisyImageConfig())
    assert own.output_shape(torch.zeros(5), data().spec) == (5, 1, 4, 4)
    assert own.refuses(data()) is None
    assert own.refuses(data((7,)))
    shown = torch.as_tensor(own.show(torch.zeros(2, 1, 4, 4), data()))
    assert shown.flatten().tolist() == pytest.approx([0.5] * 32)  # the mean of the normalisation


def test_it_is_the_mean() -> None:
    assert mean_loss(torch.tensor([1.0, 2.0, 6.0])) == 3.0
