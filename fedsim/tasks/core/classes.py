"""Class labels of examples or tokens: cross-entropy and accuracy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedsim.core.nets import losses
from fedsim.core.types import Config, Dataset, InputSpec
from fedsim.core.types.tasks import Model, Task
from fedsim.metrics.testing import test_accuracy, test_loss


class ClassTask(Task[Config]):
    """Base class of tasks with class labels and cross-entropy."""

    def refuses_labels(self, labels: Tensor, spec: InputSpec) -> str | None:
        """Return an error for an invalid class, or None; token labels may be the ignored label."""
        strangers = labels[((labels < 0) | (labels >= spec.classes)) & ~losses.ignored_labels(labels)]
        if not len(strangers):
            return None
        return f"label {int(strangers[0])} is out of range, expected 0 to {spec.classes - 1}"

    def output_shape(self, labels: Tensor, spec: InputSpec) -> tuple[int, ...]:
        """Return the shape of logits for each class of each label."""
        return (*labels.shape, spec.classes)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's cross-entropy, the mean over its tokens if tokens have labels."""
        return losses.compute_example_losses(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the examples."""
        return losses.cross_entropy(outputs, targets)


class TokenAnswers(NamedTuple):
    """A model's predictions of the test set's tokens.

    Attributes:
        guesses: predicted class of every label.
        loss: mean over the examples.
        accuracy: share of correct labels, without ignored labels.
    """

    guesses: Tensor
    loss: float
    accuracy: float


def token_answers(task: ClassTask, model: Model, data: Dataset) -> TokenAnswers:
    """Evaluate a model in batches, since logits of every token of a test set would exceed the memory."""
    batch_losses: list[Tensor] = []
    guesses: list[Tensor] = []
    for batch in data.test.split(task.eval_batch_size):
        outputs = task.outputs(model, batch, {})
        batch_losses.append(task.losses(outputs, batch.labels))
        guesses.append(outputs.argmax(-1))
    guessed = torch.cat(guesses)
    counted = ~losses.ignored_labels(data.test.labels)
    accuracy = test_accuracy(guessed[counted], data.test.labels[counted])
    return TokenAnswers(guessed, test_loss(torch.cat(batch_losses)), accuracy)


def class_answers(task: ClassTask, model: Model, data: Dataset) -> dict[str, float]:
    """Return accuracy and mean loss of a model with one prediction per example."""
    outputs = torch.cat([task.outputs(model, batch, {}) for batch in data.test.split(task.eval_batch_size)])
    accuracy = test_accuracy(outputs.argmax(1), data.test.labels)
    return {"test_accuracy": accuracy, "test_loss": test_loss(task.loss(outputs, data.test.labels))}
