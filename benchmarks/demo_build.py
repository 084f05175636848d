"""The teaching demo: how long its page takes to record, how large it is, and how long a live attack takes.

About two minutes on two idle cores. Seconds are those of a clock: other programs lengthen them.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, measured
from fedsim.demo.attempt import ViewerOrder, attempt
from fedsim.demo.lesson import QUICK, installed, record_lesson
from fedsim.demo.page import page_of
from fedsim.demo.victim import Setting, world_of
from fedsim.metrics.image import to_pixels

_DIGITS = 5
_ITERATIONS = 300
_RATES = (0.25, 0.5, 0.75)


def build_rows() -> list[Row]:
    """Return seconds and size of the whole page, recorded by two processes."""
    begin = time.perf_counter()
    lesson = record_lesson(installed(QUICK), 2, lambda _done, _total: None)
    page = page_of(lesson).encode()
    seconds = time.perf_counter() - begin
    counts = ", ".join(f"{len(pictures.scenes)} of {name}" for name, pictures in lesson.sets.items())
    setting = f"settings: {counts}, 4 attacks each"
    return [
        measured("record the page", f"{setting}, 2 processes", [seconds], "s", "<= 120"),
        measured("size of the page", setting, [len(page) / 1e6], "MB", "< 1"),
    ]


def live_rows(digits: int = _DIGITS, iterations: int = _ITERATIONS) -> list[Row]:
    """Return seconds and PSNR of the live page's attacks at each dropout rate, over handwritten digits."""
    world = world_of(Setting())
    batch, spec = world.data.dataset.test, world.data.dataset.spec
    pixels = (to_pixels(batch.inputs[:digits], spec) * 255).round().int().flatten(1).tolist()
    rows: list[Row] = []
    for rate in _RATES:
        results: dict[str, list[dict[str, Any]]] = {"exact": [], "estimates": []}
        for grey, label in zip(pixels, batch.labels[:digits].tolist(), strict=True):
            order = ViewerOrder(pixels=tuple(grey), label=label, setting=Setting(rate=rate))

            def tell(event: str, about: dict[str, Any]) -> None:
                if event == "result":
                    results[about["attacker"]].append(about)  # noqa: B023 - told within this turn of the loop

            attempt(order, iterations, tell)
        where = f"MLP 3 x 256, p = {rate:g}, one thread"
        for attacker, name, must in (("exact", "closed form", "<= 1"), ("estimates", "DIA", "<= 10")):
            of_attacker = results[attacker]
            rows.append(measured(f"live {name}, time", where, [about["seconds"] for about in of_attacker], "s", must))
            rows.append(measured(f"live {name}, PSNR", where, [about["psnr"] for about in of_attacker], "dB", ""))
    return rows


@experiment("demo-build", minutes=2, page="benchmarks/demo-build")
def demo_build(_budget: Budget) -> Cells:
    """Return the cells of the page and of live attacks."""
    return {"live attacks": live_rows, "page": build_rows}
