"""The docstring of every defense's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Protects", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("defense"))
def test_a_first_sentence_then_headings_in_their_order(name: str) -> None:
    assert problems(registry.get("defense", name).doc, HEADINGS) == []
