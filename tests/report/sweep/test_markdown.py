"""Text that Markdown shows as it is."""

import pytest

from fedsim.report.sweep.markdown import _plain


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
    assert _plain(text) == shown
