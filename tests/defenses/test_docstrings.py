"""The docstring of every defense's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Protects", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("defense"))
def test_the_docstring_names_the_method_and_has_all_headings(name: str) -> None:
    doc = registry.get("defense", name).doc
    assert doc.startswith(f"{name}: ")
    assert problems(doc, HEADINGS) == []
