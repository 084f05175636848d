"""Tables: a model says for every row of a table which of K classes it has.

    loss = -log softmax(outputs)_label, the mean over the rows

A row is a vector (C,) of normalised numbers; a category is one-hot. Tested are accuracy and mean loss. Guesses are
scored by the error of numbers in standard deviations and the share of right categories, each beside what the columns'
public marginals give, and by whether a whole row was read. Time series come as tables: a column for each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.hooks.tasks import Model, Scored, Shown
from fedsim.core.registry import task
from fedsim.core.types import Batch, Dataset, Knowledge, Reconstruction, Truth
from fedsim.metrics import table
from fedsim.metrics.image import match
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore
from fedsim.tasks.core.classes import ClassTask, class_answers
from fedsim.tasks.core.fitting import refuses_classes, refuses_inputs

_WORST = {"number_error": 10.0, "categories_right": 0.0, "row_exact": 0.0}


@final
@task("tabular", summary="one class for every row of a table")
class Tabular(ClassTask):
    """Cross-entropy of the classes of rows.

    Rows are numbers in fixed places, as images are, so what works on images by their numbers alone works on rows.
    """

    noun: ClassVar[str] = "row"
    knowable: ClassVar[frozenset[Knowledge]] = frozenset({"labels", "input-statistics"})

    def refuses(self, data: Dataset) -> str | None:
        """Say whether examples are no rows, or have no class each."""
        if len(data.spec.shape) != 1:
            return f"it reads rows of a table, and an example has shape {data.spec.shape}"
        return refuses_inputs(data, tokens=False) or refuses_classes(data, of_tokens=False)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss on the test set."""
        return class_answers(self, model, data)

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score rows against those that they are nearest to; a missing one has the worst values."""
        columns = table.columns_of(data.train.inputs, data.spec)
        found = complete(guess, len(examples))
        rows = found.inputs.detach().double().cpu()
        usable = rows.isfinite().all(1)
        order = match(torch.where(usable[:, None], rows, torch.nan), examples.inputs.double())
        items = tuple(
            _item(number, rows[at], examples.inputs[number].double(), columns, bool(usable[at]))
            for number, at in enumerate(order.tolist())
        )
        labels = zip(examples.labels.tolist(), found.labels[order].tolist(), strict=True)
        items = tuple(
            item.model_copy(update={"label": own, "guessed_label": guessed if guessed >= 0 else None})
            for item, (own, guessed) in zip(items, labels, strict=True)
        )
        right = label_accuracy((own.guessed_label for own in items), (own.label for own in items))
        return Scored(items=items, values={"label_accuracy": right}, order=order, guess=found)

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return the numbers of each row, in the units in which they were normalised."""
        return tuple(" ".join(f"{value:.2f}" for value in row) for row in inputs.tolist())


def _item(number: int, guess: Tensor, original: Tensor, columns: table.Columns, is_usable: bool) -> ItemScore:
    values = {
        "number_error": table.number_error(guess, original, columns),
        "categories_right": table.categories_right(guess, original, columns),
        "row_exact": table.row_exact(guess, original, columns),
    }
    values = values if is_usable else dict(_WORST)
    values["number_error_guessed"] = table.number_error_guessed(original, columns)
    values["categories_guessed"] = table.categories_guessed(original, columns)
    if not columns.categories:
        values = {name: value for name, value in values.items() if not name.startswith("categories")}
    return ItemScore(index=number, values=values, is_missing=not is_usable)
