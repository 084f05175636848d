"""Regression: a model predicts one or several numbers for every image or table row.

    loss = (output - label)^2, the mean over the numbers, then over the examples; or Huber's, or the absolute error

Labels are numbers (B, K), or (B,). Test metric: the root mean squared error in standard deviations of the labels.
Guesses are scored as images or rows; guessed numbers are scored with the baseline of their mean.
"""

from __future__ import annotations

from typing import final

from fedsim.core.registry import task
from fedsim.core.types import Dataset
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.numbers import NumberTask, refuses_numbers

_SERIES = 2  # dimensions of a series


@final
@task("regression", summary="numbers for every image or row")
class Regression(NumberTask):
    """Error of numbers."""

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are tokens or series, or labels are not numbers, or None."""
        if len(data.spec.shape) == _SERIES:
            return "it reads images or rows, and the examples are series, which have the task 'series'"
        if data.train.labels.ndim > 2:  # noqa: PLR2004 - one row of numbers for each example
            return f"it needs a row of numbers for each example, and labels have shape {tuple(data.train.labels.shape)}"
        return refuses_inputs(data, tokens=False) or refuses_numbers(data)
