"""The docstring of every aggregator's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("aggregator"))
def test_the_docstring_names_the_method_and_has_all_headings(name: str) -> None:
    doc = registry.get("aggregator", name).doc
    assert doc.startswith(f"{name}: ")
    assert problems(doc, HEADINGS) == []
