"""A page shows every block, loads nothing, and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import re

from fedsim.report.document import Document, Section, Table, TableCell, TableRow, number, paragraph
from fedsim.report.document.html import to_html
from tests.report.document.made import document
from tests.report.page import Page


def test_a_page_shows_every_block_and_escapes_all_text() -> None:
    page = to_html(document())
    read = Page(page)
    tags = [tag for tag, _ in read.tags]
    assert not read.open, "every element is closed"
    assert tags.count("script") == 1
    assert "\x1b" not in page
    for shown in (
        "All is read.",
        "Careful",
        "60 %",
        "10, 90",
        "Hide the originals",
        "None was recorded.",
        "inner",
        "The end.",
    ):
        assert shown in read.text, shown
    assert read.text.count("<script>alert(1)</script>") == 6, (
        "title, name of the window, strong words, banner, label, reason"
    )
    assert {"results", "rest", "blind"} <= {attributes.get("id") for _, attributes in read.tags}
    assert tags.count("img") == 3


def test_sections_are_in_the_contents_by_their_places() -> None:
    page = to_html(Document("Page", sections=(Section("What it costs", (paragraph("much"),)),)))
    assert '<a href="#what-it-costs">What it costs</a>' in page
    assert '<h2 id="what-it-costs">' in page


def test_a_document_knows_its_charts() -> None:
    assert [picture.name for picture in document().pictures] == ["curve"]


def test_only_a_table_that_can_be_sorted_says_by_what() -> None:
    row = TableRow.of("none", TableCell("50 %", sort_by="0.5"))
    for is_sortable in (True, False):
        table = Table.of("Costs", ("setting", number("success")), [row], is_sortable=is_sortable)
        assert table.rows == [row]
        page = to_html(Document("Page", sections=(Section("Costs", (table,)),)))
        assert ('data-sort="0.5"' in page) is is_sortable
        assert '<th scope="row">none</th>' in page


def test_a_sheet_says_so_to_the_style() -> None:
    assert '<body class="sheet">' in to_html(Document("Page", is_sheet=True))
    assert "<body>" in to_html(Document("Page"))


def test_titles_in_the_contents_are_text_and_the_page_runs_its_script_alone() -> None:
    page = to_html(Document("Page", sections=(Section("<b>& one</b>", (paragraph("much"),), "a"),)))
    assert re.findall(r'<a href="#(\w)">(.*?)</a>', page) == [("a", "&lt;b&gt;&amp; one&lt;/b&gt;")]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
