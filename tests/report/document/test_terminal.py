"""A terminal shows intervals where it is wide enough, and no text of a record controls it."""

from __future__ import annotations

import io

from rich.console import Console

from fedsim.report.document import Block, Heading, Table, TableCell, TableRow
from fedsim.report.document.terminal import to_terminal
from tests.report.document.made import document, table


def _printed(width: int, *blocks: Block) -> str:
    text = io.StringIO()
    to_terminal(blocks or [table()], Console(file=text, width=width))
    return text.getvalue()


def test_intervals_stand_where_the_screen_is_wide() -> None:
    assert "50 % [10, 90]" in _printed(300)
    assert "gave up" in _printed(300)


def test_a_table_whose_words_have_no_room_is_a_line_a_row_with_all_of_its_cells() -> None:
    cells = TableCell("gradient-noise"), TableCell("converged", "2 to 3")
    block = Table.of("Searches", [Heading("defense"), Heading("searched updates", is_number=True)], [TableRow(cells)])
    assert _printed(26, block).splitlines()[1:] == ["  gradient-noise; searched updates: converged [2 to 3]"]
    narrow = _printed(27, block)
    assert "gradient-noise converged" in " ".join(narrow.split())
    assert "2 to 3" not in narrow


def test_every_block_but_pictures_is_printed_and_none_controls_the_screen() -> None:
    text = _printed(200, *document().sections[0].blocks)
    assert "\x1b" not in text
    for shown in ("plain: This is broken now Or not.", "Careful.", "knows labels", "seed: 7", "inner", "meaning"):
        assert shown in text, shown


def test_a_narrow_screen_leaves_out_what_is_extra_and_keeps_the_intervals_that_matter() -> None:
    headings = [
        Heading("attack"),
        Heading("found", is_number=True, keeps_interval=True),
        Heading("loss", is_number=True),
        Heading("of what", is_extra=True),
    ]
    cells = (TableCell("a"), TableCell("7 %", "5 to 9"), TableCell("3.0", "2 to 4"), TableCell("of clients"))
    block = Table.of("Found", headings, [TableRow(cells), TableRow((TableCell("b"),), reason="failed: why")])
    wide, less, narrow = (_printed(width, block) for width in (100, 38, 27))
    assert "7 % [5 to 9] 3.0 [2 to 4] of clients" in " ".join(wide.split())
    assert "7 % [5 to 9] 3.0 [2 to 4]" in " ".join(less.split())
    assert "of what" not in less
    assert "7 % [5 to 9] 3.0" in " ".join(narrow.split())
    assert "2 to 4" not in narrow
    assert "b failed - -" in " ".join(wide.split())


def test_sentences_without_room_are_a_line_a_row() -> None:
    rows = [TableRow((TableCell("noise"), TableCell("epsilon 1"), TableCell("one record more or less"))),
            TableRow((TableCell("none"),), reason="failed: why")]  # fmt: skip
    block = Table.of("Guarantees", ["by", "figure", "unit"], rows, layout="words")
    assert _printed(20, block).splitlines() == [
        "Guarantees",
        "  noise; figure: epsilon 1; unit: one record more or less",
        "  none; failed: why",
    ]
    assert "noise epsilon 1 one record more or less" in " ".join(_printed(200, block).split())
