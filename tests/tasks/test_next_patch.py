"""Next patch: the noise is what is learnt, and times and noise are secrets of the client."""

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset
from fedsim.tasks.next_patch import NextPatch, NextPatchConfig

TASK = NextPatch(NextPatchConfig())
BATCH = Batch(torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4)


def test_the_model_is_told_what_was_drawn_and_pays_for_the_noise_that_it_misses() -> None:
    draws = TASK.draw(BATCH, torch.Generator().manual_seed(1))
    assert bool(((draws["time"] >= 0) & (draws["time"] < 1)).all())
    told: list[Tensor] = []

    def model(images: Tensor, time: Tensor, pixel_noise: Tensor) -> Tensor:
        told.extend((time, pixel_noise))
        return pixel_noise + 2

    losses = TASK.losses(TASK.outputs(model, BATCH, draws), TASK.targets(BATCH, draws))
    assert losses.tolist() == pytest.approx([4.0] * 6)
    assert torch.equal(told[0], draws["time"])
    assert torch.equal(told[1], draws["noise"])


def test_who_answers_with_nothing_pays_one_on_average(samples: dict[str, Dataset]) -> None:
    data = samples["classification"]
    figures = TASK.evaluate(lambda x, time, pixel_noise: torch.zeros_like(x), data, torch.Generator().manual_seed(0))
    # 4 draws of 20 images of 4 pixels: 320 squares of deviation 1.41, within three standard errors.
    assert abs(figures["test_denoising_loss"] - 1) < 0.24
    assert "shape (5,)" in str(TASK.refuses(samples["tabular"]))
    assert TASK.show(data.test.inputs, data).shape == (20, 1, 2, 2)  # type: ignore[union-attr]


def test_classes_are_told_if_asked_for_and_other_models_are_named() -> None:
    seen: list[Tensor] = []

    def model(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return images

    NextPatch(NextPatchConfig(classes=True)).outputs(model, BATCH, {})
    assert torch.equal(seen[0], BATCH.labels)
    with pytest.raises(FedsimError, match=r"predicts no noise of patches.*patch-diffusion"):
        TASK.outputs(torch.nn.Linear(2, 2), BATCH, TASK.draw(BATCH, torch.Generator()))
