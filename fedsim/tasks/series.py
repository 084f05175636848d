"""Series: a model foretells numbers from a window of a series of one variable or several.

    loss = (output - label)^2, the mean over what is foretold, then over the windows; or Huber's, or the absolute error

A window has shape (times, variables) or (variables, times); labels are the numbers that follow, (B, H) or (B, H,
variables). Tested is the root mean squared error in standard deviations of the labels. A guessed window is scored by
the error of its numbers, what was guessed to follow beside its mean.
"""

from __future__ import annotations

from typing import final

from fedsim.core.registry import task
from fedsim.core.types import Dataset
from fedsim.tasks.core.fitting import refuses_inputs
from fedsim.tasks.core.numbers import NumberTask, refuses_numbers

_SERIES = 2  # dimensions of a window


@final
@task("series", summary="what follows a window of a series")
class Series(NumberTask):
    """Error of what is foretold."""

    def refuses(self, data: Dataset) -> str | None:
        """Say whether examples are no windows, or labels are no numbers."""
        if len(data.spec.shape) != _SERIES:
            return f"it reads windows (times, variables), and an example has shape {data.spec.shape}"
        return refuses_inputs(data, tokens=False) or refuses_numbers(data)
