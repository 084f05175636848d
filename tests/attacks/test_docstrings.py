"""Every attack's module docstring has the form that `fedsim show` prints. Driven by the registry."""

import sys

import pytest

from fedsim.core import registry
from fedsim.core.registry import Method
from tests.docstrings import problems

HEADINGS = ("Idea", "Equation", "Assumes", "Recovers", "Fails", "Source")
METHODS = [*registry.methods("attack").values(), *registry.methods("membership").values()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_docstring_names_the_attack_and_has_all_headings(method: Method) -> None:
    doc = sys.modules[method.make.__module__].__doc__ or ""
    assert doc.startswith(f"{method.name}: ")
    assert problems(doc, HEADINGS) == []
