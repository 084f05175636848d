"""Terminal output of an audit: progress with the time left, then the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from fedsim.audit import page
from fedsim.audit.record import SUGGESTS, UNDERSTOOD, AuditRecord
from fedsim.report.document import Fold
from fedsim.report.document.terminal import to_terminal

_LINES = 4  # progress lines if the output is no terminal


def show(record: AuditRecord, console: Console) -> None:
    """Print the headline, the measurements, the recommendation and the limits of an audit."""
    sections = page.build(record, {}).sections
    measured = [block for part in sections if part.place not in page.ONLY_THERE for block in part.blocks]
    to_terminal(
        [
            page.headline(record),
            *(block for block in measured if not isinstance(block, Fold)),
            *page.conclusion(record),
            *page.missing_policy_note(record),
        ],
        console,
    )


@contextmanager
def counting(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show progress and the time left: a live line on a terminal, otherwise a line per quarter of the time.

    The displayed time never grows, even when the clock restarts after the import of the user's module.
    """
    latest, shown, due, pause = "", math.inf, math.inf, 0.0
    with console.status("") as status:

        def tell(text: str, left: float) -> None:
            nonlocal latest, shown, due, pause
            shown = min(shown, left)
            line = Text(f"{int(shown) // 60}:{int(shown) % 60:02d} left  {text}")
            if text.startswith((SUGGESTS, UNDERSTOOD)):
                if text != latest:
                    console.print(Text(text), soft_wrap=True)
            elif console.is_terminal:
                status.update(line)
            elif shown <= due:
                console.print(line, soft_wrap=True)
                pause = pause or shown / _LINES
                due = shown - pause
            latest = text

        yield tell
