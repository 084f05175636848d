"""Text classification: a model predicts one of K classes for every text.

    loss = -log softmax(outputs)_label, the mean over the examples

Inputs are tokens (B, T), labels classes (B,). Test metrics: the accuracy and the mean loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch

from fedsim.core.registry import task
from fedsim.core.types import Config, Dataset
from fedsim.core.types.tasks import Model
from fedsim.tasks.core.classes import ClassTask, class_answers
from fedsim.tasks.core.fitting import refuses_classes, refuses_inputs
from fedsim.tasks.core.sentences import TextTask


@final
@task("text-classification", summary="a class for every text")
class TextClassification(TextTask[Config], ClassTask):
    """Cross-entropy of the classes of texts."""

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not tokens with a class per text, or None."""
        return refuses_inputs(data, tokens=True) or refuses_classes(data, of_tokens=False)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss on the test set."""
        return class_answers(self, model, data)
