"""Lines of code: what is blank, a comment or a docstring is none."""

from pathlib import Path

from tests.code_lines import count, table

SOURCE = '''"""A module."""

import os  # why


class A:
    """A class.

    With a second paragraph.
    """

    name = """a text
    of two lines"""


def f():
    # nothing
    return os
'''


def test_blank_lines_comments_and_docstrings_do_not_count_and_other_texts_do() -> None:
    assert count(SOURCE) == 6


def test_a_room_shows_its_product_beside_its_tests(tmp_path: Path) -> None:
    for name in ("fedsim/audit/a.py", "attacks/text/b.py", "tests/audit/test_a.py", "tests/conftest.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SOURCE * 2 if name.startswith("tests") else SOURCE)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nText.\n")
    (tmp_path / "scenarios" / "expected").mkdir(parents=True)
    (tmp_path / "scenarios" / "expected" / "a.json").write_text('{"figures": [{}, {}]}')
    assert [line.split() for line in table(tmp_path)][1:] == [
        [".", "0", "0", "13"],
        ["attacks/text", "1", "6", "0"],
        ["audit", "1", "6", "13"],
        ["all", "2", "12", "26"],
        ["benchmarks:", "0", "code", "lines"],
        ["pages:", "3", "lines"],
        ["scenarios:", "0", "lines"],
        ["expected", "figures:", "2"],
    ]
