"""An audit on a terminal: the time left while it runs, then what its document says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from fedsim.audit import page
from fedsim.audit.record import SUGGESTS, UNDERSTOOD, AuditRecord
from fedsim.report.document import Fold, to_terminal

_LINES = 4  # of progress where there is no terminal


def show(record: AuditRecord, console: Console) -> None:
    """Print what updates give away in one sentence, what the audit measured, and what it recommends and cannot say."""
    sections = page.build(record, {}).sections
    measured = [block for part in sections if part.place not in page.ONLY_THERE for block in part.blocks]
    to_terminal(
        [
            page.headline(record),
            *(block for block in measured if not isinstance(block, Fold)),
            *page.conclusion(record),
            *page.without_policy(record),
        ],
        console,
    )


@contextmanager
def counting(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show what is being done and the time left: one live line on a terminal, elsewhere a line a quarter of the time.

    The time left never grows, also where the clock begins anew once a user's module is imported.
    """
    latest, shown, due, pause = "", math.inf, math.inf, 0.0
    with console.status("") as status:

        def tell(what: str, left: float) -> None:
            nonlocal latest, shown, due, pause
            shown = min(shown, left)
            line = Text(f"{int(shown) // 60}:{int(shown) % 60:02d} left  {what}")
            if what.startswith((SUGGESTS, UNDERSTOOD)):
                if what != latest:
                    console.print(Text(what), soft_wrap=True)
            elif console.is_terminal:
                status.update(line)
            elif shown <= due:
                console.print(line, soft_wrap=True)
                pause = pause or shown / _LINES
                due = shown - pause
            latest = what

        yield tell
