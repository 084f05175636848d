"""Base class of tasks in which a model predicts the noise added to images: tests, scores and display.

The test loss is the mean of the task's loss over test images and noise draws. In fedsim's tasks, a model without
knowledge about images has loss 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Batch, Config, Dataset, InputSpec, Knowledge, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored, Shown, Task
from fedsim.metrics.image import to_pixels
from fedsim.tasks.core.fitting import refuses_inputs, refuses_shape
from fedsim.tasks.core.images import score_images


class NoisyImageConfig(Config):
    """Settings of all noisy image tasks."""

    drawn_in_tests: int = Field(default=4, ge=1, description="draws of noise for each test image")


ConfigT = TypeVar("ConfigT", bound=NoisyImageConfig)


class NoisyImageTask(Task[ConfigT]):
    """A task with images as inputs and outputs. Subclasses implement draws, outputs, targets and losses."""

    eval_batch_size: ClassVar[int] = 256
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not images, or None."""
        return refuses_inputs(data, tokens=False) or refuses_shape(data)

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return the shape of an image batch."""
        return (len(labels), *spec.shape)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return the loss on the test set."""
        losses: list[Tensor] = []
        for batch in data.test.split(self.eval_batch_size):
            for _ in range(self.config.drawn_in_tests):
                draws = self.draw(batch, generator)
                losses.append(self.losses(self.outputs(model, batch, draws), self.targets(batch, draws)))
        return {"test_denoising_loss": test_denoising_loss(torch.cat(losses))}

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score guesses in pixels, each against the original assigned to it."""
        return score_images(truth, examples, guess, data)

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the images as pixels."""
        return to_pixels(inputs, data.spec).numpy()


@registry.metric(
    "test_denoising_loss",
    title="denoising loss",
    summary="denoising loss on test images; 1 for a denoiser that knows only the noise level",
    related="2206.00364",
    over="round",
    better="lower",
    digits=3,
    limits=(0.0, None),
)
def test_denoising_loss(losses: Tensor) -> float:
    """Return the mean loss over images and noise draws."""
    return float(losses.mean())
