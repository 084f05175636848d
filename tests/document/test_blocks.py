"""Blocks hold text and pixels; addresses hold files."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fedsim.document import Code, Download, Heading, Strong, Table, TableCell, TableRow, WallCell, paragraph


def test_a_table_without_groups_has_one_group_without_a_title() -> None:
    table = Table.of("Words", ("word", Heading("n", is_number=True)), [TableRow((TableCell("a"), TableCell("1")))])
    assert [(heading.text, heading.is_number) for heading in table.headings] == [("word", False), ("n", True)]
    assert [(group.title, len(group.rows)) for group in table.groups] == [("", 1)]


def test_a_paragraph_has_its_text_without_emphasis() -> None:
    assert paragraph("See ", Strong("this"), " in ", Code("a.csv"), ".").text == "See this in a.csv."


def test_pixels_are_a_picture_in_the_page_and_none_are_nothing() -> None:
    pixels = np.zeros((2, 3, 3))
    pixels[0, 0] = 1.0
    kind, _, content = WallCell(pixels).source.partition(",")
    assert kind == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert np.array_equal(picture, pixels * 255)
    assert WallCell(None).source == WallCell(None).public_source == ""


def test_a_download_is_inside_the_page() -> None:
    address = Download("a.csv", "Download", b"a,b\n").address
    assert base64.b64decode(address.removeprefix("data:text/csv;base64,")) == b"a,b\n"
