"""Series: a model forecasts numbers from a window of a time series with one or several variables.

    loss = (output - label)^2, the mean over the forecast, then over the windows; or Huber's, or the absolute error

A window has shape (times, variables) or (variables, times); labels are the next values, (B, H) or (B, H, variables).
Test metric: the root mean squared error in standard deviations of the labels. A guessed window is scored by the error
of its numbers, a guessed forecast with the baseline of its mean.
"""

from __future__ import annotations

from typing import final

from fedsim.core.registry import task
from fedsim.core.types import Dataset
from fedsim.tasks.core.fitting import WINDOW, refuses_inputs
from fedsim.tasks.core.numbers import NumberTask, refuses_numbers


@final
@task("series", summary="the values after a window of a series")
class Series(NumberTask):
    """Forecast error."""

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not windows, or labels are not numbers, or None."""
        if len(data.spec.shape) != WINDOW:
            return f"it reads windows (times, variables), and an example has shape {data.spec.shape}"
        return refuses_inputs(data, tokens=False) or refuses_numbers(data)
