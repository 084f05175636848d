"""Classification: a model predicts one of K classes for every image.

    loss = -log softmax(outputs)_label, the mean over the examples

Labels are classes (B,), or probabilities (B, K) if a component or a defense mixed them. A model may return several
predictions (B, M, K); their losses are averaged. Test metrics: accuracy and mean loss. Guesses are scored by MSE, PSNR
and SSIM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.registry import task
from fedsim.core.types import Batch, Dataset, Knowledge, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored, Shown
from fedsim.metrics.image import to_pixels
from fedsim.tasks.core.classes import ClassTask, class_answers
from fedsim.tasks.core.fitting import WINDOW, refuses_classes, refuses_inputs
from fedsim.tasks.core.images import score_images


@final
@task("classification", summary="a class for every image")
class Classification(ClassTask):
    """Cross-entropy of classes."""

    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not images with a class each, or None."""
        if len(data.spec.shape) <= WINDOW and data.spec.vocabulary is None:
            return "it reads images, and the examples are rows of a table or windows, which have the task 'tabular'"
        return refuses_inputs(data, tokens=False) or refuses_classes(data, of_tokens=False)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss on the test set."""
        return class_answers(self, model, data)

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score guesses in pixels, each against the original assigned to it."""
        return score_images(truth, examples, guess, data)

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the images as pixels."""
        return to_pixels(inputs, data.spec).numpy()
