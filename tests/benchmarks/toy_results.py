"""A small result of an experiment, for tests."""

from __future__ import annotations

from benchmarks._results import Result
from benchmarks._rows import Row


def result(*rows: Row) -> Result:
    """Return a result of two cells: the first row, and the others."""
    return Result(
        experiment="toy",
        commit="abc",
        sources={"benchmarks/toy.py": "12345678"},
        date="2026-11-30",
        processor="a processor",
        full=False,
        seconds=5.0,
        minutes=0.1,
        cells={"one": list(rows[:1]), "rest": list(rows[1:])},
    )
