"""The docstring of every component's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Leaks", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("component"))
def test_a_first_sentence_then_headings_in_their_order(name: str) -> None:
    assert problems(registry.get("component", name).doc, HEADINGS) == []
