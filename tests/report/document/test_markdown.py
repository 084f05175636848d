"""Markdown shows text as it is, and tables with the title of each group."""

from __future__ import annotations

import pytest

from fedsim.report.document import Document, Section, paragraph
from fedsim.report.document.markdown import plain, to_markdown
from tests.report.document.made import document


def test_a_document_without_its_pictures() -> None:
    lines = to_markdown(document()).splitlines()
    assert lines[0].startswith(r"# \<script\>alert(1)\</script\> \| \[link\](x)")
    assert "**Stop.** Nothing is shown." in lines
    assert "| arm | attack | recovered digits |" in lines
    assert "| plain | auto, control | 50 % (10, 90) |" in lines
    assert "- recognisable: 60 %, allowed 5 %: broken" in lines
    assert "    fedsim run x.toml" in lines
    assert not any("svg" in line or "data:" in line for line in lines)
    assert r"plain: This is **broken** now Or not." in lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("# no heading", r"\# no heading"),
        ("<b>[x](y)</b> `z`", r"\<b\>\[x\](y)\</b\> \`z\`"),
        ("two\n\nlines\t here", "two lines here"),
        ("plain 1.0", "plain 1.0"),
    ],
)
def test_names_make_no_tables_tags_links_or_lines(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_document_may_be_a_part_of_a_longer_text() -> None:
    whole = Document("Page", lead="A sentence.", sections=(Section("Part", (paragraph("much"),)),))
    assert to_markdown(whole, depth=2) == "## Page\n\nA sentence.\n\n### Part\n\nmuch\n"
