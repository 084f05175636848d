"""Score guessed rows of numbers, each against the original assigned to it, in standard deviations.

Each score has two baselines: guesses from public marginals, and rows of other people.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.core.types import Batch, Dataset, Reconstruction
from fedsim.core.types.tasks import Scored
from fedsim.metrics import cells, table
from fedsim.metrics.image import match
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore

_WORST = {"number_error": 10.0, "categories_right": 0.0, "cells_right": 0.0, "row_exact": 0.0}


def score_rows(examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
    """Score rows (C,), or series of any shape, against the originals assigned to them; a missing row is the worst."""
    columns = table.columns_of(data.train.inputs, data.spec)
    completed = complete(guess, len(examples))
    rows, originals = (part.detach().double().cpu().flatten(1) for part in (completed.inputs, examples.inputs))
    usable = rows.isfinite().all(1)
    strangers = cells.matched_strangers(originals, data.test.inputs.double().flatten(1))
    order = match(torch.where(usable[:, None], rows, torch.nan), originals)
    items = tuple(
        _item(number, rows[index], originals[number], strangers[:, number], columns, bool(usable[index]))
        for number, index in enumerate(order.tolist())
    )
    return Scored(items=items, order=order, guess=completed)


def _item(
    number: int, guess: Tensor, original: Tensor, strangers: Tensor, columns: table.Columns, is_usable: bool
) -> ItemScore:
    values = {
        "number_error": table.number_error(guess, original, columns),
        "categories_right": table.categories_right(guess, original, columns),
        "cells_right": cells.cells_right(guess, original, columns),
        "row_exact": table.row_exact(guess, original, columns),
    }
    values = values if is_usable else dict(_WORST)
    values["number_error_guessed"] = table.number_error_guessed(original, columns)
    values["categories_guessed"] = table.categories_guessed(original, columns)
    if len(strangers):
        values["cells_of_others"] = cells.cells_of_others(strangers, original, columns)
        values["row_of_others"] = cells.row_of_others(strangers, original, columns)
    if not columns.categories:
        values = {name: value for name, value in values.items() if not name.startswith("categories")}
    return ItemScore(index=number, values=values, is_missing=not is_usable)
