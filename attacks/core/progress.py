"""Steps of a part of a search, told as steps of the whole."""

from __future__ import annotations

import math
from dataclasses import replace

from fedsim.core.types import OnStep, Step


def continued(
    on_step: OnStep, *, restarts: int = 0, done: int = 0, iterations: int | None = None, best: float = math.inf
) -> OnStep:
    """Return what tells `on_step` of a part of a search that begins behind other parts.

    Args:
        on_step: is told of the whole.
        restarts: of earlier parts.
        done: iterations of earlier parts.
        iterations: of the whole; None for those of the part.
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
