"""Ways of doing the same work, timed side by side.

Passes alternate, so that a busy machine slows all of them, and each begins with another way than the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")

SETTLING = 2
"""First passes of every way, which are not counted."""


def time_alternately(ways: Sequence[Callable[[int], None]], passes: int, settling: int = SETTLING) -> list[list[float]]:
    """Return the seconds of processor time of every pass of every way, which is called with the pass's number."""
    runs = run_in_turn([lambda number, way=way: timed(partial(way, number)) for way in ways], range(passes + settling))
    return [[seconds for _, seconds in of_way[settling:]] for of_way in runs]


def timed(work: Callable[[], Done]) -> tuple[Done, float]:
    """Return what a function returns, and its seconds of processor time."""
    begin = time.process_time()
    done = work()
    return done, time.process_time() - begin


def run_in_turn(ways: Sequence[Callable[[Work], Done]], every: Iterable[Work]) -> list[list[Done]]:
    """Return what each way did with each piece of work; every piece begins with another way."""
    done: list[list[Done]] = [[] for _ in ways]
    for number, work in enumerate(every):
        for turn in range(len(ways)):
            index = (number + turn) % len(ways)
            done[index].append(ways[index](work))
    return done
