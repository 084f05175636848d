"""Lines of code: what is blank, a comment or a docstring is none."""

from tests.code_lines import count

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
