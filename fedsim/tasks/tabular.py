"""Tables and series: a model predicts one of K classes for every table row or window of a series.

    loss = -log softmax(outputs)_label, the mean over the rows

A row is a vector (C,) of normalised numbers; a category is one-hot. A window is (channels, times), as `torch.nn.Conv1d`
reads it, or (times, channels); it is scored as a row with one column per channel and time. Test metrics: accuracy and
mean loss. Guesses are scored by the error of numbers in standard deviations and the share of correct categories, each
with the baseline of the columns' public marginals, and by whether a whole row was recovered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, cast, final

import torch
from torch import Tensor

from fedsim.core.registry import task
from fedsim.core.types import Batch, Dataset, Knowledge, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored, Shown
from fedsim.record import ItemScore
from fedsim.tasks.core.classes import ClassTask, class_answers
from fedsim.tasks.core.fitting import WINDOW, refuses_classes, refuses_inputs
from fedsim.tasks.core.images import label_values
from fedsim.tasks.core.rows import score_rows


@final
@task("tabular", summary="a class for every row of a table or window of a series")
class Tabular(ClassTask):
    """Cross-entropy of the classes of rows.

    Rows have numbers at fixed positions, as images have, so attacks on images that use only numbers work on rows.
    """

    noun: ClassVar[str] = "row"
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not rows or windows with a class each, or None."""
        if len(data.spec.shape) > WINDOW:
            return f"it reads rows of a table or windows of a series, and an example has shape {data.spec.shape}"
        return refuses_inputs(data, tokens=False) or refuses_classes(data, of_tokens=False)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss on the test set."""
        return class_answers(self, model, data)

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score rows against the originals assigned to them; a missing row has the worst values."""
        scored = score_rows(examples, guess, data)
        order, completed = scored.order, scored.guess
        assert order is not None
        assert completed is not None
        labels = zip(examples.labels.tolist(), completed.labels[order].tolist(), strict=True)
        items = tuple(
            item.model_copy(update={"label": label, "guessed_label": guessed if guessed >= 0 else None})
            for item, (label, guessed) in zip(cast("tuple[ItemScore, ...]", scored.items), labels, strict=True)
        )
        return replace(scored, items=items, values=label_values(items))

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the normalised numbers of each row."""
        return tuple(" ".join(f"{value:.2f}" for value in row) for row in inputs.flatten(1).tolist())
