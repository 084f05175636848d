"""Ways of doing the same work, timed side by side: passes alternate, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks._rows import Row, measured

SETTLING = 2
"""First passes of every way, which are not counted."""


def alternating(ways: Sequence[Callable[[int], None]], passes: int) -> list[list[float]]:
    """Return the seconds of processor time of every pass of every way, which is called with the pass's number."""
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(passes + SETTLING):
        for own, way in zip(seconds, ways, strict=True):
            begin = time.process_time()
            way(number)
            own.append(time.process_time() - begin)
    return [own[SETTLING:] for own in seconds]


def ratio(name: str, setting: str, over: Sequence[float], under: Sequence[float], must: str) -> Row:
    """Return the ratio of medians; least, median and greatest are over the passes' own ratios."""
    ratios = [a / b for a, b in zip(over, under, strict=False)]
    return measured(name, setting, ratios, "times", must, statistics.median(over) / statistics.median(under))
