"""Clocks that do not run."""

from fedsim.core.time_budget import TimeBudget


class StoppedClock(TimeBudget):
    """A clock of 60 seconds that stands still until a test moves it."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__(60.0)

    @property
    def remaining_seconds(self) -> float:
        return max(0.0, 60.0 - self.now)
