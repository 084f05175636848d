"""Report the progress of part of a search as progress of the whole search."""

from __future__ import annotations

import math
from dataclasses import replace

from fedsim.core.types import OnStep, Step


def shift_progress(
    on_step: OnStep, *, restarts: int = 0, done: int = 0, iterations: int | None = None, best: float = math.inf
) -> OnStep:
    """Return an `on_step` for a part of a search that follows other parts.

    Args:
        on_step: receives the progress of the whole search.
        restarts: number of restarts in earlier parts.
        done: number of iterations in earlier parts.
        iterations: iterations of the whole search; None to keep the number of the part.
        best: lowest objective of earlier parts.
    """

    def report(step: Step) -> None:
        on_step(
            replace(
                step,
                restart=restarts + step.restart,
                iteration=done + step.iteration,
                iterations=step.iterations if iterations is None else iterations,
                best=min(best, step.best),
            )
        )

    return report


class Numbered:
    """Numbers the steps of several searches consecutively.

    Attributes:
        has_stopped: whether the callback raised an `Exception`, such as a stop request; `DeadlineReached` does not
            count.
    """

    def __init__(self, on_step: OnStep) -> None:
        """Start the count at 1."""
        self._on_step = on_step
        self._count = 0
        self.has_stopped = False

    def __call__(self, step: Step) -> None:
        """Report a step with its consecutive number; the total adds the remaining iterations of the step's search."""
        self._count += 1
        total = self._count + step.iterations - step.iteration
        try:
            self._on_step(replace(step, restart=0, iteration=self._count, iterations=total))
        except Exception:
            self.has_stopped = True
            raise
