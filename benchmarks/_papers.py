"""Steps of papers: their code from the methods' decorators, and their tests from the tests' markers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache

from benchmarks._results import ROOT
from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, Entry

_PACKAGES = ("attacks", "defenses", "fedsim")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


def stepwise() -> list[Entry]:
    """Return what methods say that name the steps of their papers, by kind and name."""
    return [entry for kind in KINDS for _, entry in sorted(entries_of(kind).items()) if entry.paper_steps]


def place_of(entry: Entry, code: str) -> str:
    """Return the full name of a step's code."""
    return code if "." in code and code.split(".", maxsplit=1)[0] in _PACKAGES else f"{entry.module}.{code}"


def oracle_of(entry: Entry, step: str) -> str:
    """Return the path of a step's test, as pytest takes it; empty without a test."""
    return oracles().get((entry.name, step), "")


@cache
def oracles() -> Mapping[tuple[str, str], str]:
    """Return the tests with the marker ``paper_step(METHOD, STEP)``, by method and step.

    Raises:
        ValueError: two tests are marked with the same step.
    """
    found: dict[tuple[str, str], str] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        for test in ast.walk(ast.parse(text)) if "paper_step" in text else ():
            for name, step in _steps_of(test):
                path = f"{file.relative_to(ROOT).as_posix()}::{getattr(test, 'name', '')}"
                if found.setdefault((name, step), path) != path:
                    raise ValueError(f"{name}: {step}: marked at {found[name, step]} and {path}, expected one test")
    return found


def _steps_of(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield method and step of each marker of a test."""
    for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.paper_step":
            name, step = map(ast.literal_eval, mark.args)
            yield name, step


def quote_places(entry: Entry, step: str, code: str) -> tuple[str, str]:
    """Return the full name of a step's code and the path of its test for a table, or that the step is not built."""
    return (f"`{place_of(entry, code)}`", f"`{oracle_of(entry, step)}`") if code else ("not built", "")


def link(paper: str) -> str:
    """Return a paper as a link to arXiv, if it is there."""
    return f"[{paper}](https://arxiv.org/abs/{paper})" if _ARXIV.fullmatch(paper) else paper
