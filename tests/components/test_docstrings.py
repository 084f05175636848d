"""The docstring of every component's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Leaks", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("component"))
def test_the_docstring_names_the_method_and_has_all_headings(name: str) -> None:
    doc = registry.get("component", name).doc
    assert doc.startswith(f"{name}: ")
    assert problems(doc, HEADINGS) == []
