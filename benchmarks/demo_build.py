"""The teaching demo: how long its page takes to record, and how large it is.

Seconds are those of the processor, of all processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row
from fedsim.demo.lesson import QUICK, installed, record_lesson
from fedsim.demo.page import page_of


@experiment("demo-build", minutes=3, page="benchmarks/demo-build")
def demo_build(_budget: Budget) -> Cells:
    """Return the cell of the page."""
    return {"page": _rows}


def _rows() -> Iterator[Row]:
    begin = sum(os.times()[:4])
    lesson = record_lesson(installed(QUICK), 2, lambda _done, _total: None)
    page = page_of(lesson).encode()
    counts = ", ".join(f"{len(pictures.scenes)} of {name}" for name, pictures in lesson.sets.items())
    setting = f"settings: {counts}, 4 attacks each"
    yield Row("record the page, 2 processes", setting, sum(os.times()[:4]) - begin, "s", must="<= 240")
    yield Row("size of the page", setting, len(page) / 1e6, "MB", must="< 1")
