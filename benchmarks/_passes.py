"""Ways of doing the same work, timed side by side.

Passes alternate, so that a busy machine slows all of them, and each begins with another way than the last.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from benchmarks._rows import Row, measured

Work = TypeVar("Work")
Done = TypeVar("Done")

SETTLING = 2
"""First passes of every way, which are not counted."""


def alternating(ways: Sequence[Callable[[int], None]], passes: int) -> list[list[float]]:
    """Return the seconds of processor time of every pass of every way, which is called with the pass's number."""
    seconds = in_turn([partial(_seconds, way) for way in ways], range(passes + SETTLING))
    return [of_way[SETTLING:] for of_way in seconds]


def _seconds(way: Callable[[int], None], number: int) -> float:
    begin = time.process_time()
    way(number)
    return time.process_time() - begin


def in_turn(ways: Sequence[Callable[[Work], Done]], every: Iterable[Work]) -> list[list[Done]]:
    """Return what each way did with each piece of work; every piece begins with another way."""
    done: list[list[Done]] = [[] for _ in ways]
    for number, work in enumerate(every):
        for turn in range(len(ways)):
            index = (number + turn) % len(ways)
            done[index].append(ways[index](work))
    return done


def ratio(name: str, setting: str, over: Sequence[float], under: Sequence[float], must: str) -> Row:
    """Return the ratio of medians; least, median and greatest are over the passes' own ratios."""
    ratios = [a / b for a, b in zip(over, under, strict=False)]
    return measured(name, setting, ratios, "times", must, statistics.median(over) / statistics.median(under))


def interval(over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of medians, by 1000 draws of passes with replacement."""
    draws = random.Random(0)
    chosen = [draws.choices(range(len(over)), k=len(over)) for _ in range(1000)]
    ratios = [
        statistics.median(over[n] for n in numbers) / statistics.median(under[n] for n in numbers) for numbers in chosen
    ]
    low, *_, high = statistics.quantiles(ratios, n=40)
    return low, high
