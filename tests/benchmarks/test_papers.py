"""Steps of papers: the code that they name can be imported, and the test that holds each is there."""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _papers
from fedsim.core.registry.method import Entry

ROOT = Path(__file__).parents[2]
STEPS = [(entry, step) for entry in _papers.stepwise() for step in entry.paper_steps]


def importable(name: str) -> Any:
    """Import the longest beginning of a name that is a module, and take the rest from it."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(importable(module), rest)


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("entry", "step"), STEPS, ids=[f"{entry.name}: {step[0]}" for entry, step in STEPS])
def test_the_code_of_a_step_is_there_and_so_is_its_oracle(entry: Entry, step: tuple[str, str, str]) -> None:
    _what, code, test = step
    assert importable(_papers.place_of(entry, code)) is not None
    path, _, name = _papers.oracle_of(entry, test).partition("::")
    assert name.startswith("test_")
    assert name in names_in(path)


def test_the_page_has_a_line_for_every_step_of_every_method() -> None:
    page = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    assert _papers.as_tables() in page
    assert len(_papers.stepwise()) > 33  # a method or more for each published one
    assert all(f"| `{entry.name}` | {step[0]} |" in page for entry, step in STEPS)


def test_names_are_those_of_the_methods_files_unless_they_are_whole() -> None:
    entry = Entry(kind="attack", name="tag", module="attacks.text.tag", summary="")
    assert _papers.place_of(entry, "Tag.search") == "attacks.text.tag.Tag.search"
    assert _papers.place_of(entry, "fedsim.core.sanitize.plain") == "fedsim.core.sanitize.plain"
    assert _papers.oracle_of(entry, "test_it") == "tests/attacks/text/test_tag.py::test_it"
    assert _papers.oracle_of(entry, "tests/core/test_sanitize.py::test_it") == "tests/core/test_sanitize.py::test_it"
    component = Entry(kind="component", name="lora", module="fedsim.components.adapter.lora", summary="")
    assert _papers.oracle_of(component, "test_it") == "tests/components/adapter/test_lora.py::test_it"
