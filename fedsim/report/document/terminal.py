"""Terminal renderer of document blocks: sentences, and tables that fit the console's width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING

from fedsim.core.sanitize import printable
from fedsim.report.document import (
    Banner,
    Block,
    Cards,
    Code,
    Definitions,
    Fold,
    Heading,
    Paragraph,
    Statements,
    Table,
    TableCell,
    TableRow,
    Verdict,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Column
    from rich.table import Table as RichTable

_ANY_WIDTH = 1_000  # columns
_BETWEEN = 2  # columns


def to_terminal(blocks: Iterable[Block], console: Console) -> None:
    """Print blocks. A table shows all columns and intervals if the console is wide enough; pictures are omitted."""
    for block in blocks:
        for part in _render_block(block, console):
            console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


@singledispatch
def _render_block(block: Block, console: Console) -> Iterator[RenderableType]:
    """Yield the terminal output of a block."""
    del block, console
    yield from ()


@_render_block.register(Paragraph)
def _(block: Paragraph, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(block.text)


@_render_block.register(Code)
def _(block: Code, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(block.text)


@_render_block.register(Banner)
def _(block: Banner, console: Console) -> Iterator[RenderableType]:
    del console
    yield printable(f"{block.title}. {block.text}")


@_render_block.register(Verdict)
def _(block: Verdict, console: Console) -> Iterator[RenderableType]:
    yield printable(block.headline)
    for inner in block.blocks:
        yield from _render_block(inner, console)


@_render_block.register(Statements)
def _(block: Statements, console: Console) -> Iterator[RenderableType]:
    del console
    for statement in block.rows:
        sentence = f"{statement.before}{statement.strong}{statement.after} {statement.caveat}".strip()
        yield printable(f"{statement.subject}: {sentence}")
        yield from (
            printable(f"  {check.name}: {check.measured_value}, allowed {check.limit}: {check.level}")
            for check in statement.checks
        )


@_render_block.register(Cards)
def _(block: Cards, console: Console) -> Iterator[RenderableType]:
    del console
    for card in block.cards:
        if card.title:
            yield printable(card.title)
        yield from (printable(f"  {item.text}") for item in card.items)


@_render_block.register(Definitions)
def _(block: Definitions, console: Console) -> Iterator[RenderableType]:
    del console
    yield from (printable(f"{term}: {meaning.text}") for term, meaning in block.pairs)


@_render_block.register(Fold)
def _(block: Fold, console: Console) -> Iterator[RenderableType]:
    for inner in block.blocks:
        yield from _render_block(inner, console)


@_render_block.register(Table)
def _(block: Table, console: Console) -> Iterator[RenderableType]:
    """Yield a table with the columns that fit the console; if sentences or whole words do not fit, a line per row."""
    from rich.measure import Measurement  # noqa: PLC0415 - keeps the import of documents cheap

    shorter = _drop_extra_columns(block)
    for shown in (block, shorter):
        whole = _table(shown, is_narrow=False)
        wanted = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), whole).maximum
        if wanted <= console.width:
            yield whole
            return
    narrow = _table(shorter, is_narrow=True)
    if block.layout == "words" or not _keep_words(narrow, 2 if block.group_heading else 1, console.width):
        yield from _lines(block)
    else:
        yield narrow


def _keep_words(table: RichTable, names: int, width: int) -> bool:
    """Set minimum widths so that no column breaks a word, and the first `names` columns no name if possible.

    Returns whether the words fit the width.
    """
    columns = list(enumerate(table.columns))
    for whole in (names, 0):
        longest = [_longest(column, "\n" if index < whole else None) for index, column in columns]
        if sum(longest) + _BETWEEN * len(longest) <= width:
            for (_, column), least in zip(columns, longest, strict=True):
                column.min_width = least
            return True
    return False


def _longest(column: Column, separator: str | None) -> int:
    """Return the width of the longest part of a column's texts."""
    from rich.cells import cell_len  # noqa: PLC0415 - as above

    parts = (part for text in (column.header, *column.cells) for part in str(text).split(separator))
    return max(map(cell_len, parts), default=0)


def _drop_extra_columns(block: Table) -> Table:
    """Return a table without the columns that a narrow screen omits."""
    return block.with_columns([not heading.is_extra for heading in block.headings])


def _lines(block: Table) -> Iterator[str]:
    """Yield the title, then a line per row: its name, and its nonempty cells with their headings."""
    yield printable(block.title)
    names = [printable(heading.text) for heading in block.headings[1:]]
    for group in block.groups:
        for row in group.rows:
            first, *later_cells = (_cell(cell) for cell in row.cells)
            pairs = zip(names, later_cells, strict=True) if later_cells else ()
            said = [f"{name}: {text}" for name, text in pairs if text] or [row.reason]
            yield printable(f"  {f'{group.title}: ' if block.group_heading else ''}{'; '.join((first, *said))}")


def _table(block: Table, *, is_narrow: bool) -> RichTable:
    """Return a rich table without vertical lines, for which a narrow screen has no room.

    If `is_narrow`, headings and tags are placed on lines of their own; otherwise rich would break the cells.
    """
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
    from rich.table import Table as RichTable  # noqa: PLC0415 - as above

    title = printable(block.title)
    table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    if block.group_heading:
        table.add_column(block.group_heading, overflow="fold")
    for heading in block.headings:
        text = heading.text.replace(" ", "\n") if is_narrow and heading.is_number else heading.text
        table.add_column(printable(text), justify="right" if heading.is_number else "left", overflow="fold")
    for group in block.groups:
        first = [printable(group.title)] if block.group_heading else []
        for row in group.rows:
            table.add_row(*first, *_cells(row, block.headings, is_narrow=is_narrow))
    return table


def _cells(row: TableRow, headings: Sequence[Heading], *, is_narrow: bool) -> list[str]:
    separator = "\n" if is_narrow else " "
    if row.reason:
        why = printable(row.reason.partition(":")[0])
        return [_cell(row.cells[0], separator=separator), why, *["-"] * (len(headings) - 2)]
    pairs = zip(row.cells, headings, strict=True)
    return [
        _cell(cell, with_interval=heading.keeps_interval or not is_narrow, separator=separator)
        for cell, heading in pairs
    ]


def _cell(cell: TableCell, *, with_interval: bool = True, separator: str = " ") -> str:
    """Return a cell as text, with `separator` before each tag and note."""
    text = f"{cell.text} [{cell.interval}]" if cell.interval and with_interval else cell.text
    return printable(f"{text}{''.join(f'{separator}({addition})' for addition in (*cell.tags, *cell.notes))}")
