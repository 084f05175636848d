"""Images are matched, and missing ones are the worst."""

import numpy as np
import torch

from fedsim.core.types import Batch, Dataset, InputSpec, Reconstruction
from tests.tasks.truths import IMAGES, truth


def test_images_are_matched_missing_ones_are_the_worst_and_public_ones_stand_beside_them() -> None:
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = Batch((pixels[:2] - 0.5) / 0.2, torch.tensor([1, 0]))
    others = Batch((pixels[2:] - 0.5) / 0.2, torch.tensor([1]))
    data = Dataset(batch, others, InputSpec((1, 4, 4), 2, (0.5,), (0.2,)), ("a", "b"))
    found = IMAGES.score(truth(batch), batch, Reconstruction.of(batch.inputs.flip(0), torch.tensor([0, 1])), data)
    assert [item.values["psnr"] for item in found.items] == [160.0, 160.0]
    assert found.order is not None
    assert found.order.tolist() == [1, 0]
    assert found.values == {"label_accuracy": 1.0}
    assert found.notes == ()
    assert found.arrays["public"].shape == (2, 1, 4, 4)
    assert np.array_equal(found.arrays["public"][0], (255 * pixels[2]).round().to(torch.uint8).numpy())
    shown = IMAGES.show(batch.inputs, data)
    assert isinstance(shown, np.ndarray)
    assert np.allclose(shown, pixels[:2].numpy(), atol=1e-6)  # rounding of float32
    one = IMAGES.score(truth(batch), batch, Reconstruction.of(batch.inputs[:1], torch.tensor([1])), data)
    assert [item.values["psnr"] for item in one.items] == [160.0, 0.0]
    assert one.notes[0].startswith("it guessed 1 of 2 examples")
    assert one.guess is not None
    assert len(one.guess.inputs) == 2
