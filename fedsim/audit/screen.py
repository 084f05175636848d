"""An audit on a terminal: the time left while it runs, then what its document says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from fedsim.audit import page
from fedsim.audit.record import SUGGESTS, UNDERSTOOD, AuditRecord
from fedsim.document import Fold, to_terminal


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
    """Show what is being done and the time left: one live line on a terminal, plain lines elsewhere."""
    latest = ""
    with console.status("") as status:

        def tell(what: str, left: float) -> None:
            nonlocal latest
            line = Text(f"{int(left) // 60}:{int(left) % 60:02d} left  {what}")
            if what.startswith((SUGGESTS, UNDERSTOOD)):
                console.print(Text(what), soft_wrap=True)
            elif console.is_terminal:
                status.update(line)
            elif what != latest:
                console.print(line, soft_wrap=True)
            latest = what

        yield tell
