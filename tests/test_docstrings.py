import pytest

from tests.docstrings import problems

HEADINGS = ("Idea", "Fails", "Source")
GOOD = """name: does one thing.

Idea: why it works,
    on two lines.
Fails: never.
Source: somebody 2020, section 1.
"""


def test_a_docstring_of_the_form_has_no_problem() -> None:
    assert problems(GOOD, HEADINGS) == []


@pytest.mark.parametrize(
    ("doc", "found"),
    [
        ("", "there is no docstring"),
        (GOOD.replace("name: d", "D"), "the first line is not 'NAME: one sentence.'"),
        (GOOD.replace("thing.", "thing"), "the first line is not 'NAME: one sentence.'"),
        (GOOD.replace("\n\n", "\n"), "the second line is not blank"),
        (GOOD.replace("Fails: never.\n", ""), "heading 'Fails' is missing"),
        (GOOD.replace("Source", "Fails: always.\nSource"), "heading 'Fails' occurs 2 times"),
        (GOOD.replace("Fails: never.", "Fails:"), "heading 'Fails' has no text"),
        (GOOD.replace("Source", "Paper: one.\nSource"), "unknown heading or text that is not indented: 'Paper'"),
        (GOOD.replace("    on two", "on two"), "unknown heading or text that is not indented: 'on two lines.'"),
        (GOOD.replace("Source", "    more\n" * 7 + "Source"), "13 lines, at most 12 are allowed"),
    ],
)
def test_a_departure_from_the_form_is_named(doc: str, found: str) -> None:
    assert found in problems(doc, HEADINGS)


def test_headings_in_another_order_are_named() -> None:
    swapped = GOOD.replace("Fails: never.\nSource: somebody 2020, section 1.", "Source: one.\nFails: never.")
    assert problems(swapped, HEADINGS) == ["headings are in the order Idea, Source, Fails"]
