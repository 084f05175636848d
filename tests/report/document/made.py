"""A document with one block of every kind, and text that would do harm if it were taken for markup."""

from __future__ import annotations

import numpy as np

from fedsim.report.document import (
    Banner,
    Card,
    Cards,
    Check,
    Code,
    Definitions,
    Document,
    Download,
    Figures,
    Fold,
    Heading,
    ImageGrid,
    ImageGrids,
    Paragraph,
    Picture,
    RowGroup,
    Section,
    Statement,
    Statements,
    Strong,
    Table,
    TableCell,
    TableRow,
    Verdict,
    WallCell,
    WallRow,
    paragraph,
)

EVIL = "<script>alert(1)</script> | [link](x) `code` \x1b[31m"


def table() -> Table:
    """Return a table of two groups: a row with figures, one that failed."""
    row = TableRow((TableCell("auto", tags=("control",)), TableCell("50 %", "10, 90", sort_by="0.5")))
    failed = TableRow((TableCell(EVIL),), reason=f"gave up: {EVIL}")
    groups = RowGroup("plain", (row,), "MLP"), RowGroup("noisy", (failed,))
    return Table("Attacks", (Heading("attack"), Heading("recovered digits", is_number=True)), groups, "arm")


def document() -> Document:
    """Return a document with every block."""
    cell = WallCell(np.zeros((2, 2, 3)), EVIL, ("20 dB",), True, public=np.ones((2, 2, 3)), public_note="9 dB")
    wall = ImageGrid(
        "plain", ("digit 1",), (WallRow("original", (cell,), True), WallRow("auto", (WallCell(None, text="failed"),)))
    )
    picture = Picture("curve", "", EVIL, b"png", b"<svg/>", ("x",), ((1,),))
    check = Check("recognisable", "60 %", "5 %", "broken")
    blocks = (
        paragraph("Read ", Strong(EVIL), " in ", Code("scores.csv"), "."),
        Paragraph(("How it was made.",), is_note=True),
        Banner("caution", "Careful", EVIL),
        Statements((Statement("plain", "broken", "broken", "This is ", " now", "Or not.", (check,)),)),
        table(),
        Table.of("Words", ("word", "meaning"), [TableRow((TableCell("a"), TableCell("b", notes=("c",))))]),
        Figures((picture,)),
        ImageGrids((wall,), "Hide the originals"),
        Cards((Card("Attacks", (paragraph("knows labels"),)), Card("Clients", (), "None was recorded."))),
        Definitions((("seed", paragraph("7")),)),
        Download("table.csv", "Download as CSV", b"a,b\n"),
        Code("fedsim run x.toml", "Command"),
        Fold("More", (paragraph("inner"),)),
    )
    return Document(
        title=EVIL,
        kicker="fedsim report",
        lead="A lead.",
        banners=(Banner("alarm", "Stop", "Nothing is shown."),),
        opening=(Verdict("recovered", "All is read.", (paragraph("Believe it."),)),),
        sections=(Section("Results", blocks), Section("Rest", (paragraph("end"),), "rest", is_folded=True)),
        footer="The end.",
    )
