"""Documents as data: title, warnings, and sections of blocks. All text is plain: renderers escape it.

All figures are computed when a document is built; a renderer computes nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Literal

import numpy as np

Level = Literal["", "kept", "recovered", "undecided", "broken", "advice", "caution", "alarm", "not measured"]
"""Tone of a statement, as a colour: kept green, recovered orange, undecided and caution amber, broken and alarm red,
advice blue; grey if empty."""


@dataclass(frozen=True)
class Strong:
    """Emphasised words of a paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text for the reader to type: a span of a paragraph, or a scrolling block of lines."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text, emphasised words and code. A `note` is small and explains the block above."""

    spans: tuple[str | Strong | Code, ...]
    is_note: bool = False

    @property
    def text(self) -> str:
        """The paragraph without emphasis."""
        return "".join(span if isinstance(span, str) else span.text for span in self.spans)


def paragraph(*spans: str | Strong | Code) -> Paragraph:
    """Return a paragraph."""
    return Paragraph(spans)


def note(*spans: str | Strong | Code) -> Paragraph:
    """Return a small paragraph that explains the block above."""
    return Paragraph(spans, is_note=True)


@dataclass(frozen=True)
class Banner:
    """A warning at the top of the document, or next to its subject."""

    level: Literal["alarm", "caution"]
    title: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """A framed conclusion: an emphasised sentence, and the blocks that qualify it."""

    level: Level
    headline: str
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Check:
    """A threshold: measured value, allowed value, and its state."""

    name: str
    measured_value: str
    limit: str
    level: Level


@dataclass(frozen=True)
class Statement:
    """A statement about a subject: `before`, emphasised words, `after`, a caveat, and thresholds."""

    subject: str
    strong: str
    level: Level = ""
    before: str = ""
    after: str = ""
    caveat: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Statements:
    """A vertical list of statements."""

    rows: tuple[Statement, ...]


@dataclass(frozen=True)
class Heading:
    """Heading of a column.

    Attributes:
        is_number: whether the column contains numbers.
        keeps_interval: whether a narrow screen keeps the column's intervals.
        is_extra: whether a narrow screen omits the column.
    """

    text: str
    is_number: bool = False
    keeps_interval: bool = False
    is_extra: bool = False


def number(text: str, *, keeps_interval: bool = False, is_extra: bool = False) -> Heading:
    """Return the heading of a numeric column."""
    return Heading(text, True, keeps_interval, is_extra)


@dataclass(frozen=True)
class Measurement:
    """The number behind the text of a cell, unscaled: a share is in [0, 1].

    Attributes:
        metric: name of the metric.
        value: estimate.
        low: lower end of the interval; None if n does not support an interval.
        high: upper end.
        n: units that the interval is over.
        unit: unit of value, low and high; empty for shares.
        better: direction of the metric; empty if the table has no best value.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    unit: str = ""
    better: Literal["", "higher", "lower"] = ""


@dataclass(frozen=True)
class TableCell:
    """A table cell: text, interval, tags, notes, tone, sort key, and the number behind the text.

    `is_best` marks the best value of a column, for tables of papers.
    """

    text: str = ""
    interval: str = ""
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    level: Level = ""
    sort_by: str | None = None
    measurement: Measurement | None = None
    is_best: bool = False


@dataclass(frozen=True)
class TableRow:
    """A table row; its first cell names it. A row with a `reason` has no figures: the reason spans the other columns.

    A terminal shows the reason up to its first colon.
    """

    cells: tuple[TableCell, ...]
    reason: str = ""
    level: Literal["", "muted", "best"] = ""

    @classmethod
    def of(cls, *cells: TableCell | str, level: Literal["", "muted", "best"] = "") -> TableRow:
        """Return a row of cells; a string becomes a cell with that text."""
        return cls(tuple(TableCell(cell) if isinstance(cell, str) else cell for cell in cells), level=level)


@dataclass(frozen=True)
class RowGroup:
    """Rows below a common title."""

    title: str
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: description of the table, for screen readers and terminals.
        headings: column headings.
        groups: groups of rows, each with a title; a single group without a title is a table without groups.
        group_heading: heading of the group titles, for renderers without groups.
        is_sortable: whether a reader may sort it.
        layout: ``long`` scrolls instead of wrapping its cells, ``words`` leaves room for sentences in its last column.
    """

    title: str
    headings: tuple[Heading, ...]
    groups: tuple[RowGroup, ...]
    group_heading: str = ""
    is_sortable: bool = True
    layout: Literal["", "long", "words"] = ""

    @property
    def rows(self) -> list[TableRow]:
        """The rows of every group."""
        return [row for group in self.groups for row in group.rows]

    def with_columns(self, is_kept: Sequence[bool]) -> Table:
        """Return the table with some of its columns, each kept or not."""
        groups = (
            replace(group, rows=tuple(replace(row, cells=tuple(compress(row.cells, is_kept))) for row in group.rows))
            for group in self.groups
        )
        return replace(self, headings=tuple(compress(self.headings, is_kept)), groups=tuple(groups))

    @classmethod
    def of(
        cls,
        title: str,
        headings: Sequence[Heading | str],
        rows: Sequence[TableRow],
        *,
        is_sortable: bool = True,
        layout: Literal["", "long", "words"] = "",
    ) -> Table:
        """Return a table without groups; a string becomes the heading of a text column."""
        heads = tuple(Heading(head) if isinstance(head, str) else head for head in headings)
        return cls(title, heads, (RowGroup("", tuple(rows)),), is_sortable=is_sortable, layout=layout)


def table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str | TableCell] | TableRow],
    words: Iterable[str] = (),
    layout: Literal["", "words"] = "",
) -> Table:
    """Return a table; all columns are numeric except the first and the headings in `words`; see `Table.layout`."""
    texts = {headings[0], *words}
    heads = [Heading(heading, is_number=heading not in texts) for heading in headings]
    return Table.of(
        title, heads, [row if isinstance(row, TableRow) else TableRow.of(*row) for row in rows], layout=layout
    )


@dataclass(frozen=True)
class Picture:
    """A chart as files and as part of a page.

    Attributes:
        name: file name without suffix.
        arm: the chart's arm; empty for all arms.
        alt: text alternative of the chart.
        png: PNG for the folder of figures.
        svg: SVG for the page.
        columns: names of the data columns.
        rows: the plotted data.
    """

    name: str
    arm: str
    alt: str
    png: bytes
    svg: bytes
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        return data_address("image/svg+xml", self.svg)


@dataclass(frozen=True)
class Figures:
    """Charts side by side, with their data in a folder; `is_wide` widens each chart."""

    pictures: tuple[Picture, ...]
    is_wide: bool = False
    folder: str = "figures/"


@dataclass(frozen=True)
class WallCell:
    """A picture of an image grid, or a text in its place.

    Attributes:
        pixels: (H, W, 3) in [0, 1], or None.
        alt: text alternative of the picture.
        scores: similarity to the original, as text.
        level: level of success, for example "identified"; empty without success.
        text: text in place of a picture.
        public: the public picture nearest to a guess, as `pixels`.
        public_note: distance to the public picture, as text.
        is_nearer_to_public: whether the guess is nearer to the public picture than to the original.
        data: numeric values by column of the data file.
    """

    pixels: np.ndarray | None
    alt: str = ""
    scores: tuple[str, ...] = ()
    level: str = ""
    text: str = ""
    public: np.ndarray | None = None
    public_note: str = ""
    is_nearer_to_public: bool = False
    data: Mapping[str, object] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The picture as a data URL; empty without a picture."""
        return png_address(self.pixels)

    @property
    def public_source(self) -> str:
        """The public picture as a data URL; empty without a picture."""
        return png_address(self.public)


@dataclass(frozen=True)
class WallRow:
    """Originals, or guesses of an attack."""

    label: str
    cells: tuple[WallCell, ...]
    is_truth: bool = False


@dataclass(frozen=True)
class ImageGrid:
    """Image grid; every row shows the same examples."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[WallRow, ...]
    note: str = ""


@dataclass(frozen=True)
class ImageGrids:
    """Image grids side by side; `hides` labels a switch that hides the originals, and is empty without a switch."""

    walls: tuple[ImageGrid, ...]
    hides: str = ""


@dataclass(frozen=True)
class Card:
    """A titled list."""

    title: str
    items: tuple[Paragraph, ...]
    empty: str = ""


@dataclass(frozen=True)
class Cards:
    """Cards side by side; a card without a title is a plain list."""

    cards: tuple[Card, ...]


def bullets(sentences: Iterable[str]) -> Cards:
    """Return sentences as a list."""
    return Cards((Card("", tuple(map(paragraph, sentences))),))


@dataclass(frozen=True)
class Definitions:
    """Terms with their definitions."""

    pairs: tuple[tuple[str, Paragraph], ...]

    @classmethod
    def of(cls, meanings: Mapping[str, str]) -> Definitions:
        """Return terms with plain-text definitions."""
        return cls(tuple((term, paragraph(meaning)) for term, meaning in meanings.items()))


@dataclass(frozen=True)
class Download:
    """A file embedded in the page."""

    name: str
    label: str
    content: bytes

    @property
    def address(self) -> str:
        """The content as a data URL."""
        return data_address("text/csv", self.content)


@dataclass(frozen=True)
class Fold:
    """Collapsible blocks."""

    summary: str
    blocks: tuple[Block, ...]
    is_open: bool = False
    place: str = ""


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `place` is its anchor (default: slug of the title). A folded section starts closed."""

    title: str
    blocks: tuple[Block, ...]
    place: str = ""
    is_folded: bool = False


Block = (
    Paragraph
    | Banner
    | Verdict
    | Statements
    | Table
    | Figures
    | ImageGrids
    | Cards
    | Definitions
    | Download
    | Code
    | Fold
)


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: heading of the page.
        kicker: small line above the title: kind of page, date, progress.
        lead: sentence below the title.
        banners: warnings above everything else.
        opening: blocks before the first section, without a heading.
        sections: sections in order.
        footer: last line.
        name: window title, if it differs from the title.
        is_sheet: whether the page is printed on a single A4 sheet, in small type.
    """

    title: str
    kicker: str = ""
    lead: str = ""
    banners: tuple[Banner, ...] = ()
    opening: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""
    name: str = ""
    is_sheet: bool = False

    @property
    def pictures(self) -> list[Picture]:
        """The charts of the document, in order."""
        parts = [self.opening, *(section.blocks for section in self.sections)]
        return [picture for blocks in parts for picture in _pictures(blocks)]


def _pictures(blocks: Iterable[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Figures):
            yield from block.pictures
        elif isinstance(block, Fold | Verdict):
            yield from _pictures(block.blocks)


def png_address(pixels: np.ndarray | None) -> str:
    """Return (H, W, 3) pixels in [0, 1] as a data URL; empty without pixels."""
    return "" if pixels is None else data_address("image/png", encode(pixels))


def encode(pixels: np.ndarray) -> bytes:
    """Return a PNG of pixels (H, W, 3) in [0, 1]."""
    from PIL import Image  # noqa: PLC0415 - keeps the import of documents cheap

    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """Return `content` as a ``data:`` URL, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
