"""The docstring of every aggregator's file has the form that `fedsim show` prints."""

import pytest

from fedsim.core import registry
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Fails", "Source")


@pytest.mark.parametrize("name", registry.methods("aggregator"))
def test_a_first_sentence_then_headings_in_their_order(name: str) -> None:
    assert problems(registry.get("aggregator", name).doc, HEADINGS) == []
