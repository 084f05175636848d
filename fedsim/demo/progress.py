"""The progress of a recording, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

_LINE_EVERY_SECONDS = 10.0


@contextmanager
def counted(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (settings done, all settings): a bar on a terminal, else a line every ten seconds.

    Its first call says how many were done before.
    """
    begin = last = time.monotonic()
    before: int | None = None
    columns = (TextColumn("settings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("settings", total=None)

        def show(done: int, total: int) -> None:
            nonlocal before, last
            before = done if before is None else before
            progress.update(bar, completed=done, total=total)
            time_now = time.monotonic()
            if console.is_terminal or time_now - last < _LINE_EVERY_SECONDS:
                return
            last = time_now
            left = (time_now - begin) / max(1, done - before) * (total - done)
            console.print(Text(f"  {done} of {total} settings recorded, about {left:.0f} s left"), soft_wrap=True)

        yield show
