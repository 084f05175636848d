"""Blocks of a document for a terminal: tables that fit its width, and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import singledispatch
from typing import TYPE_CHECKING

from fedsim.core.plain import printable
from fedsim.document.blocks import (
    Banner,
    Block,
    Cards,
    Code,
    Definitions,
    Fold,
    Paragraph,
    Statements,
    Table,
    TableCell,
    TableRow,
    Verdict,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table as RichTable

_ANY_WIDTH = 1_000  # columns


def to_terminal(blocks: Iterable[Block], console: Console) -> None:
    """Print blocks. A table shows intervals where the console is wide enough; pictures are left out."""
    for block in blocks:
        for part in _shown(block, console):
            console.print(part, markup=False, highlight=False)


@singledispatch
def _shown(block: Block, console: Console) -> Iterator[RenderableType]:
    """Yield what a terminal shows of a block."""
    del block, console
    yield from ()


@_shown.register(Paragraph)
def _(block: Paragraph, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(block.text)


@_shown.register(Code)
def _(block: Code, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(block.text)


@_shown.register(Banner)
def _(block: Banner, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(f"{block.title}. {block.text}")


@_shown.register(Verdict)
def _(block: Verdict, console: Console) -> Iterator[RenderableType]:
    yield printable(block.headline)
    for inner in block.blocks:
        yield from _shown(inner, console)


@_shown.register(Statements)
def _(block: Statements, console: Console) -> Iterator[RenderableType]:
    del console
    for statement in block.rows:
        said = " ".join(filter(None, (statement.before, statement.strong, statement.after, statement.caveat)))
        yield printable(f"{statement.subject}: {said}")
        yield from (
            printable(f"  {check.what}: {check.measured}, allowed {check.limit}: {check.level}")
            for check in statement.checks
        )


@_shown.register(Cards)
def _(block: Cards, console: Console) -> Iterator[RenderableType]:
    del console
    for card in block.cards:
        if card.title:
            yield printable(card.title)
        yield from (printable(f"  {item.text}") for item in card.items)


@_shown.register(Definitions)
def _(block: Definitions, console: Console) -> Iterator[RenderableType]:
    del console
    yield from (printable(f"{term}: {meaning.text}") for term, meaning in block.pairs)


@_shown.register(Fold)
def _(block: Fold, console: Console) -> Iterator[RenderableType]:
    for inner in block.blocks:
        yield from _shown(inner, console)


@_shown.register(Table)
def _(block: Table, console: Console) -> Iterator[RenderableType]:
    from rich.measure import Measurement  # noqa: PLC0415 - keeps the import of documents cheap

    whole = _table(block, every_interval=True)
    wanted = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), whole).maximum
    yield whole if wanted <= console.width else _table(block, every_interval=False)


def _table(block: Table, *, every_interval: bool) -> RichTable:
    """Return a table without vertical lines, which a narrow screen has no room for.

    Where intervals are left out, headings are narrow too, or rich would break the cells instead.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
    from rich.table import Table as RichTable  # noqa: PLC0415 - as above

    table = RichTable(title=block.title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    if block.group_heading:
        table.add_column(block.group_heading)
    for heading in block.headings:
        text = heading.text if every_interval or not heading.is_number else heading.text.replace(" ", "\n")
        table.add_column(text, justify="right" if heading.is_number else "left")
    for group in block.groups:
        first = [printable(group.title)] if block.group_heading else []
        for row in group.rows:
            table.add_row(*first, *_cells(row, len(block.headings), every_interval=every_interval))
    return table


def _cells(row: TableRow, columns: int, *, every_interval: bool) -> list[str]:
    if row.reason:
        return [_cell(row.cells[0], every_interval=every_interval), "failed", *["-"] * (columns - 2)]
    return [_cell(cell, every_interval=every_interval) for cell in row.cells]


def _cell(cell: TableCell, *, every_interval: bool) -> str:
    text = f"{cell.text} [{cell.interval}]" if cell.interval and every_interval else cell.text
    return printable(f"{text}{''.join(f' ({tag})' for tag in cell.tags)}")
