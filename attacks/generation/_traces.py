"""Convert traces to rows of features, with equal width for all compared texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from fedsim.core.types import TraceObservation

_BEHIND = -1.0  # padding value after the end of a text


def tabulate(seen: Sequence[TraceObservation]) -> np.ndarray:
    """Return every series of every text, padded to the longest, with its length and value histogram: (N, F)."""
    series = [dict(_series(trace)) for trace in seen]
    names = sorted({name for table in series for name in table})
    return np.concatenate([_block([table.get(name, ()) for table in series], name) for name in names], axis=1)


def summarise(seen: Sequence[TraceObservation]) -> np.ndarray:
    """Return length, sum, sum of squares and first value of every series of every text: (N, F)."""
    series = [dict(_series(trace)) for trace in seen]
    names = sorted({name for table in series for name in table})
    return np.array([[figure for name in names for figure in _figures(table.get(name, ()))] for table in series])


def _series(trace: TraceObservation) -> Iterator[tuple[str, Sequence[float]]]:
    if trace.counts is not None:
        yield "counts", trace.counts
    if trace.work is not None:
        yield from ((f"work {name}", series) for name, series in trace.work.items())
    if trace.seconds is not None:
        yield "seconds", trace.seconds
    if trace.output is not None:
        yield "output", [float(value) for value in trace.output]


def _block(series: Sequence[Sequence[float]], name: str) -> np.ndarray:
    longest = max(map(len, series))
    padded = np.full((len(series), longest + 1), _BEHIND)
    for row, text_steps in zip(padded, series, strict=True):
        row[: len(text_steps)] = text_steps
        row[-1] = len(text_steps)
    if name == "seconds":  # values are distinct, a histogram has no information
        return padded
    values = sorted({value for steps in series for value in steps})
    counted = [Counter(steps) for steps in series]
    return np.concatenate([padded, [[counter[value] for value in values] for counter in counted]], axis=1)


def _figures(steps: Sequence[float]) -> tuple[float, ...]:
    return (
        float(len(steps)),
        float(sum(steps)),
        float(sum(value * value for value in steps)),
        float(steps[0]) if steps else 0.0,
    )
