"""Markdown renderer of a document, for logs of continuous integration; without pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import singledispatch

from fedsim.report.document import (
    Banner,
    Block,
    Cards,
    Code,
    Definitions,
    Document,
    Fold,
    Paragraph,
    Section,
    Statement,
    Statements,
    Strong,
    Table,
    TableCell,
    TableRow,
    Verdict,
)


def to_markdown(document: Document, *, depth: int = 1) -> str:
    """Return a document as Markdown. Its text is escaped, so none of it forms a tag, a link or a table.

    Args:
        document: the document.
        depth: heading level of the title, from 1; higher levels embed the document in a longer text.
    """
    parts = [f"{'#' * depth} {plain(document.title)}", *map(plain, filter(None, (document.kicker, document.lead)))]
    parts += [text for banner in document.banners for text in _markdown(banner)]
    parts += [text for block in document.opening for text in _markdown(block)]
    parts += [text for section in document.sections for text in _section(section, depth + 1)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return text escaped for Markdown: no tags, links, table cells or line breaks."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))


def _section(section: Section, depth: int) -> Iterator[str]:
    inner = [text for block in section.blocks for text in _markdown(block)]
    if inner:
        yield f"{'#' * depth} {plain(section.title)}"
        yield from inner


@singledispatch
def _markdown(block: Block) -> Iterator[str]:
    """Yield a block as paragraphs of Markdown; pictures are omitted."""
    del block
    yield from ()


@_markdown.register(Paragraph)
def _(block: Paragraph) -> Iterator[str]:
    yield _spans(block)


@_markdown.register(Banner)
def _(block: Banner) -> Iterator[str]:
    yield f"**{plain(block.title)}.** {plain(block.text)}"


@_markdown.register(Verdict)
def _(block: Verdict) -> Iterator[str]:
    yield f"**{plain(block.headline)}**"
    for inner in block.blocks:
        yield from _markdown(inner)


@_markdown.register(Statements)
def _(block: Statements) -> Iterator[str]:
    yield from map(_statement, block.rows)


@_markdown.register(Table)
def _(block: Table) -> Iterator[str]:
    names = [block.group_heading] if block.group_heading else []
    head = [*names, *(heading.text for heading in block.headings)]
    rows = [[group.title, *row] if names else row for group in block.groups for row in map(_cells, group.rows)]
    if rows:
        bars = ["---"] * len(head)
        yield "\n".join(f"| {' | '.join(cells)} |" for cells in ([plain(name) for name in head], bars, *rows))


@_markdown.register(Cards)
def _(block: Cards) -> Iterator[str]:
    for card in block.cards:
        if card.title:
            yield f"**{plain(card.title)}**"
        if card.items:
            yield "\n".join(f"- {_spans(item)}" for item in card.items)
        elif card.empty:
            yield plain(card.empty)


@_markdown.register(Definitions)
def _(block: Definitions) -> Iterator[str]:
    yield "\n".join(f"- {plain(term)}: {_spans(meaning)}" for term, meaning in block.pairs)


@_markdown.register(Code)
def _(block: Code) -> Iterator[str]:
    yield "\n".join(f"    {line}" for line in block.text.splitlines())


@_markdown.register(Fold)
def _(block: Fold) -> Iterator[str]:
    for inner in block.blocks:
        yield from _markdown(inner)


def _statement(statement: Statement) -> str:
    strong = f"**{plain(statement.strong)}**"
    said = f"{_inline(statement.before)}{strong}{_inline(statement.after)} {plain(statement.caveat)}"
    checks = (
        f"{check.name}: {check.measured_value}, allowed {check.limit}: {check.level}" for check in statement.checks
    )
    lines = [f"- {plain(check)}" for check in checks]
    return "\n".join([f"{plain(statement.subject)}: {said}".strip(), *(["", *lines] if lines else [])])


def _cells(row: TableRow) -> list[str]:
    if row.reason:
        return [_cell(row.cells[0]), plain(row.reason)]
    return [_cell(cell) for cell in row.cells]


def _cell(cell: TableCell) -> str:
    text = f"{cell.text} ({cell.interval})" if cell.interval else cell.text
    shown = plain(", ".join([text, *cell.tags, *cell.notes]))
    return f"**{shown}**" if cell.is_best else shown


def _spans(paragraph: Paragraph) -> str:
    return "".join(
        f"**{plain(span.text)}**"
        if isinstance(span, Strong)
        else f"`{span.text}`"
        if isinstance(span, Code)
        else _inline(span)
        for span in paragraph.spans
    )


def _inline(text: str) -> str:
    """Return escaped text with its leading and trailing spaces."""
    start, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{' ' if start else ''}{plain(text)}{' ' if end and text.strip() else ''}"
