"""Traces as rows of figures, of one width for all texts that are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from fedsim.core.types import TraceObservation

_BEHIND = -1.0  # stands where a text has ended


def tabulate(seen: Sequence[TraceObservation]) -> np.ndarray:
    """Return every series of every text, padded to the longest, beside how often each value stands in it: (N, F)."""
    every = [dict(_series(own)) for own in seen]
    names = sorted({name for own in every for name in own})
    return np.concatenate([_block([own.get(name, ()) for own in every], name) for name in names], axis=1)


def summarise(seen: Sequence[TraceObservation]) -> np.ndarray:
    """Return of every series of every text its length, sum, sum of squares and first value: (N, F)."""
    every = [dict(_series(own)) for own in seen]
    names = sorted({name for own in every for name in own})
    return np.array([[figure for name in names for figure in _figures(own.get(name, ()))] for own in every])


def _series(own: TraceObservation) -> Iterator[tuple[str, Sequence[float]]]:
    if own.counts is not None:
        yield "counts", own.counts
    if own.work is not None:
        yield from ((f"work {name}", series) for name, series in own.work.items())
    if own.seconds is not None:
        yield "seconds", own.seconds
    if own.output is not None:
        yield "output", [float(value) for value in own.output]


def _block(series: Sequence[Sequence[float]], name: str) -> np.ndarray:
    longest = max(map(len, series))
    padded = np.full((len(series), longest + 1), _BEHIND)
    for row, own in zip(padded, series, strict=True):
        row[: len(own)] = own
        row[-1] = len(own)
    if name == "seconds":  # no value comes twice
        return padded
    values = sorted({value for own in series for value in own})
    counted = [Counter(own) for own in series]
    return np.concatenate([padded, [[own[value] for value in values] for own in counted]], axis=1)


def _figures(own: Sequence[float]) -> tuple[float, ...]:
    return (float(len(own)), float(sum(own)), float(sum(value * value for value in own)), float(own[0]) if own else 0.0)
