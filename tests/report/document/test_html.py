"""A page shows every block, loads nothing, and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from fedsim.report.document import Document, Section, Table, TableCell, TableRow, number, paragraph
from fedsim.report.document.html import to_html
from tests.report.document.made import document

_VOID = {"meta", "img", "input", "br"}


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.places: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [value for name, value in attrs if name == "id" and value]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_shows_every_block_and_escapes_all_text() -> None:
    page = to_html(document())
    read = _Page(page)
    assert read.tags.count("script") == 1
    assert "\x1b" not in page
    text = " ".join(read.text)
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
        assert shown in text, shown
    assert text.count("<script>alert(1)</script>") == 6, (
        "title, name of the window, strong words, banner, label, reason"
    )
    assert {"results", "rest", "blind"} <= set(read.places)
    assert read.tags.count("img") == 3


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
