"""The form of a method's docstring, which `fedsim show` prints: the check itself, and every method under it."""

import pytest

from fedsim.core import registry
from fedsim.core.registry import Kind
from tests.docstrings import problems

HEADINGS = ("Idea", "Fails", "Source")
GOOD = """name: does one thing.

Idea: why it works,
    on two lines.
Fails: never.
Source: somebody 2020, section 1.
"""


@pytest.mark.parametrize(
    "doc",
    [
        GOOD,
        GOOD.replace("Idea", "A paragraph before the headings.\n\nIdea"),
        GOOD.replace("Fails", "Equation: x = y\n" + "    more\n" * 20 + "Fails"),
    ],
)
def test_a_docstring_of_the_form_has_no_problem(doc: str) -> None:
    assert problems(doc, HEADINGS) == []


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
    ],
)
def test_a_departure_from_the_form_is_named(doc: str, found: str) -> None:
    assert found in problems(doc, HEADINGS)


def test_headings_in_another_order_are_named() -> None:
    swapped = GOOD.replace("Fails: never.\nSource: somebody 2020, section 1.", "Source: one.\nFails: never.")
    assert problems(swapped, HEADINGS) == ["headings are in the order Idea, Source, Fails"]


HEADINGS_OF: dict[Kind, tuple[str, ...]] = {
    "attack": ("Idea", "Assumes", "Recovers", "Fails", "Source"),
    "distance": ("Idea", "Fails", "Source"),
    "prior": ("Idea", "Fails", "Source"),
    "attention": ("Idea", "Fails", "Source"),
    "defense": ("Idea", "Assumes", "Protects", "Fails", "Source"),
    "component": ("Idea", "Assumes", "Leaks", "Fails", "Source"),
    "aggregator": ("Idea", "Assumes", "Fails", "Source"),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in HEADINGS_OF for name in registry.methods(kind)])
def test_the_docstring_names_the_method_and_has_all_headings(kind: Kind, name: str) -> None:
    doc = registry.get(kind, name).doc
    assert doc.startswith(f"{name}: ")
    assert problems(doc, HEADINGS_OF[kind]) == []
