"""What a document is made of. All text is plain: renderers escape it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Level = Literal["", "kept", "recovered", "undecided", "broken", "advice", "caution", "alarm", "not measured"]
"""How a page marks a statement: kept green, recovered orange, undecided and caution amber, broken and alarm red, advice
blue; grey where the level is empty."""


@dataclass(frozen=True)
class Strong:
    """Words that stand out in a paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Words that a reader may type: part of a paragraph, or a block of lines that scrolls."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text, strong words and code. A `note` is small and says how to read what is above."""

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
    """Return a small paragraph that says how to read what is above."""
    return Paragraph(spans, is_note=True)


@dataclass(frozen=True)
class Banner:
    """A warning above everything else, or beside what it is about."""

    level: Literal["alarm", "caution"]
    title: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """A framed answer: one sentence that stands out, and what a reader must know before believing it."""

    level: Level
    headline: str
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Check:
    """A threshold: what was measured, what is allowed, and whether it is kept."""

    what: str
    measured: str
    limit: str
    level: Level


@dataclass(frozen=True)
class Statement:
    """One thing that holds of one subject: `before`, then strong words, then `after`, a caveat, and thresholds."""

    subject: str
    strong: str
    level: Level = ""
    before: str = ""
    after: str = ""
    caveat: str = ""
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Statements:
    """Statements below each other."""

    rows: tuple[Statement, ...]


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    Attributes:
        is_number: whether numbers stand below it.
        keeps_interval: whether a narrow screen shows the intervals below it too.
        is_extra: whether a narrow screen leaves the column out.
    """

    text: str
    is_number: bool = False
    keeps_interval: bool = False
    is_extra: bool = False


def number(text: str, *, keeps_interval: bool = False, is_extra: bool = False) -> Heading:
    """Return the head of a column of numbers."""
    return Heading(text, True, keeps_interval, is_extra)


@dataclass(frozen=True)
class TableCell:
    """A cell: its text, an interval below it, tags, small notes, how it is meant, and by what it is sorted."""

    text: str = ""
    interval: str = ""
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    level: Level = ""
    sort_by: str | None = None


@dataclass(frozen=True)
class TableRow:
    """Cells; the first names the row. With a `reason` there are no figures, and it stands across the others.

    A terminal shows a reason up to its first colon.
    """

    cells: tuple[TableCell, ...]
    reason: str = ""
    level: Literal["", "muted", "best"] = ""

    @classmethod
    def of(cls, *cells: TableCell | str, level: Literal["", "muted", "best"] = "") -> TableRow:
        """Return a row of cells; one that is text has that text alone."""
        return cls(tuple(TableCell(cell) if isinstance(cell, str) else cell for cell in cells), level=level)


@dataclass(frozen=True)
class RowGroup:
    """Rows below a title of their own."""

    title: str
    rows: tuple[TableRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows, for who cannot see it and for terminals.
        headings: one a column.
        groups: rows, under a title each; one group without a title is a table without groups.
        group_heading: what titles of groups name, for renderers without groups.
        is_sortable: whether a reader may sort it.
        layout: ``long`` scrolls instead of breaking its cells, ``words`` has room for sentences in its last column.
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
        """Return a table without groups; a heading that is text has words below it."""
        heads = tuple(Heading(head) if isinstance(head, str) else head for head in headings)
        return cls(title, heads, (RowGroup("", tuple(rows)),), is_sortable=is_sortable, layout=layout)


@dataclass(frozen=True)
class Picture:
    """A chart as files and as part of a page.

    Attributes:
        name: file name without ending.
        arm: the arm it belongs to, empty for all arms.
        alt: what a reader who cannot see it should know.
        png: for the folder of figures.
        svg: the same for the page, scales without blur.
        columns: names of the data columns.
        rows: the data that is drawn.
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
        """The picture as a data address."""
        return data_address("image/svg+xml", self.svg)


@dataclass(frozen=True)
class Figures:
    """Charts side by side, whose data lie in a folder; `is_wide` gives each more room."""

    pictures: tuple[Picture, ...]
    is_wide: bool = False
    folder: str = "figures/"


@dataclass(frozen=True)
class WallCell:
    """One picture, or a text where there is none.

    Attributes:
        pixels: (H, W, 3) in [0, 1], or None.
        alt: what a reader who cannot see it should know.
        scores: how close it is to the original, for people.
        level: how good a success it is, for example "identified"; empty where it is no success.
        text: in place of a picture.
        public: the public picture nearest to a guess, as `pixels`.
        public_note: how near it is.
        is_nearer_to_public: whether the guess is nearer to it than to the original.
        data: the same as numbers, by column of a file of data.
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
        """The picture as a data address, empty without one."""
        return png_address(self.pixels)

    @property
    def public_source(self) -> str:
        """The public picture as a data address, empty without one."""
        return png_address(self.public)


@dataclass(frozen=True)
class WallRow:
    """Originals, or guesses of one attack."""

    label: str
    cells: tuple[WallCell, ...]
    is_truth: bool = False


@dataclass(frozen=True)
class Wall:
    """The same examples in every row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[WallRow, ...]
    note: str = ""


@dataclass(frozen=True)
class Walls:
    """Walls side by side; `hides` labels a switch that hides the originals, empty for none."""

    walls: tuple[Wall, ...]
    hides: str = ""


@dataclass(frozen=True)
class Card:
    """A title above a list."""

    title: str
    items: tuple[Paragraph, ...]
    empty: str = ""


@dataclass(frozen=True)
class Cards:
    """Cards side by side; one without a title is a list."""

    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Definitions:
    """Terms and what they are."""

    pairs: tuple[tuple[str, Paragraph], ...]

    @classmethod
    def of(cls, meanings: Mapping[str, str]) -> Definitions:
        """Return terms with what they are in plain text."""
        return cls(tuple((term, paragraph(meaning)) for term, meaning in meanings.items()))


@dataclass(frozen=True)
class Download:
    """A file inside the page."""

    name: str
    label: str
    content: bytes

    @property
    def address(self) -> str:
        """The content as a data address."""
        return data_address("text/csv", self.content)


@dataclass(frozen=True)
class Fold:
    """Blocks that are read only by who wants to."""

    summary: str
    blocks: tuple[Block, ...]
    is_open: bool = False
    place: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `place` is its anchor, the title's slug if empty. A folded one starts shut."""

    title: str
    blocks: tuple[Block, ...]
    place: str = ""
    is_folded: bool = False


Block = (
    Paragraph | Banner | Verdict | Statements | Table | Figures | Walls | Cards | Definitions | Download | Code | Fold
)


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: its heading.
        kicker: a small line above it: what kind of page, when, how far.
        lead: a sentence below it.
        banners: what a reader must see before everything else.
        opening: blocks before the first section, without a heading.
        sections: all else, in order.
        footer: the last line.
        name: the title of the window, if another.
        is_sheet: whether it is to be printed on one sheet of A4, in small type.
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
        """Its charts, in order."""
        parts = [self.opening, *(section.blocks for section in self.sections)]
        return [picture for blocks in parts for picture in _pictures(blocks)]


def _pictures(blocks: Iterable[Block]) -> Iterator[Picture]:
    for block in blocks:
        if isinstance(block, Figures):
            yield from block.pictures
        elif isinstance(block, Fold | Verdict):
            yield from _pictures(block.blocks)


def png_address(pixels: np.ndarray | None) -> str:
    """Return (H, W, 3) pixels in [0, 1] as a data address; empty without any."""
    return "" if pixels is None else data_address("image/png", encode(pixels))


def encode(pixels: np.ndarray) -> bytes:
    """Return a PNG of pixels (H, W, 3) in [0, 1]."""
    from PIL import Image  # noqa: PLC0415 - keeps the import of documents cheap

    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """Return `content` as a ``data:`` address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
