"""Base class of tasks with labels other than single classes: scores of inputs and of targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, InputSpec, Knowledge, Reconstruction, Truth
from fedsim.core.types.configured import ConfigT
from fedsim.core.types.tasks import Model, Scored, Shown, Task
from fedsim.metrics.image import to_pixels
from fedsim.metrics.targets import align_guesses
from fedsim.record import ItemScore
from fedsim.tasks.core.images import score_images
from fedsim.tasks.core.rows import score_rows

TargetScore = Callable[[Tensor, Tensor], Mapping[str, float]]  # of a guessed and the true target


class TargetTask(Task[ConfigT]):
    """Base class of tasks on images, rows or series with labels other than single classes.

    Attributes:
        accuracy_in_words: meaning of the share that `right` returns.
    """

    accuracy_in_words: ClassVar[str] = "the share of labels that are answered right"
    noun: ClassVar[str] = "row"
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def noun_of(self, spec: InputSpec) -> str:
        """Return the noun of an example: image or row."""
        return "image" if spec.is_image else "row"

    @abstractmethod
    def right(self, outputs: Tensor, labels: Tensor, data: Dataset) -> Tensor:
        """Return the share of each example's target that outputs predict correctly, shape (B,).

        Args:
            outputs: outputs of a model, first dimension B.
            labels: labels of these examples.
            data: data set, which gives the spread of targets.
        """

    @abstractmethod
    def usual_answer(self, data: Dataset) -> Tensor:
        """Return the outputs, shape (1, ...), of the best constant prediction."""

    @abstractmethod
    def target_score(self, data: Dataset) -> TargetScore:
        """Return a function that scores a guessed target, with a baseline from public targets."""

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score inputs, then the guessed target of each."""
        is_image = data.spec.is_image
        scored = score_images(truth, examples, guess, data) if is_image else score_rows(examples, guess, data)
        order, completed = scored.order, scored.guess
        assert order is not None
        assert completed is not None
        score, guessed = self.target_score(data), align_guesses(completed.labels[order].cpu(), examples.labels)
        items = cast("tuple[ItemScore, ...]", scored.items)
        pairs = zip(items, guessed, examples.labels, strict=True)
        return replace(scored, items=tuple(item.with_values(score(guess, true)) for item, guess, true in pairs))

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return images as pixels, or the numbers of each row."""
        if data.spec.is_image:
            return to_pixels(inputs, data.spec).numpy()
        return super().show(inputs, data)

    def outputs_of(self, model: Model, data: Dataset) -> Tensor:
        """Return a model's outputs for the whole test set."""
        return torch.cat([self.outputs(model, batch, {}) for batch in data.test.split(self.eval_batch_size)])
