"""Progress of one part of a search, reported as progress of the whole search."""

from __future__ import annotations

import math
from dataclasses import replace

from fedsim.core.types import OnStep, Step


def continued(
    on_step: OnStep, *, restarts: int = 0, done: int = 0, iterations: int | None = None, best: float = math.inf
) -> OnStep:
    """Return an `on_step` for a part of a search that follows other parts.

    Args:
        on_step: gets the progress of the whole search.
        restarts: number of restarts in earlier parts.
        done: number of iterations in earlier parts.
        iterations: iterations of the whole search; None to keep the number of the part.
        best: lowest objective of earlier parts.
    """

    def told(step: Step) -> None:
        on_step(
            replace(
                step,
                restart=restarts + step.restart,
                iteration=done + step.iteration,
                iterations=step.iterations if iterations is None else iterations,
                best=min(best, step.best),
            )
        )

    return told
