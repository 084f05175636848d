"""The files that an experiment measures, and a digest of what each of them does."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from benchmarks._experiments import FOLDER
from benchmarks._results import ROOT
from fedsim.core.registry import KINDS
from fedsim.core.registry.index import entries_of

_OURS = ("benchmarks", "fedsim", "attacks", "defenses")
# What every experiment stands on: tests hold it, and a change of it would make every result look old.
_GROUND = (
    *("fedsim/core/", "fedsim/scenario/", "fedsim/record/", "fedsim/cli/", "fedsim/experiment/"),
    *("benchmarks/_experiments.py", "benchmarks/_rows.py"),
)


def digests_of(module: str) -> dict[str, str]:
    """Return digests of an experiment's files, by their paths.

    They are its module, helpers of this folder, what of ours those import, and the files of methods that they name.
    """
    seen: set[Path] = set()
    waiting = [_file_of(module)]
    while waiting:
        file = waiting.pop()
        if file is None or file in seen:
            continue
        seen.add(file)
        if FOLDER in file.parents:
            waiting += map(_file_of, _named(file))
    paths = sorted(str(file.relative_to(ROOT)) for file in seen)
    return {path: digest((ROOT / path).read_text(encoding="utf-8")) for path in paths if not path.startswith(_GROUND)}


def digest(source: str) -> str:
    """Return a digest of what a file of Python does: comments, docstrings and lay-out do not count."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:8]


def changed(before: Mapping[str, str], module: str) -> list[str]:
    """Return the files of an experiment that do something else than before, or were not among them."""
    now = digests_of(module)
    return sorted(path for path in {**before, **now} if before.get(path) != now.get(path))


@cache
def _named(file: Path) -> tuple[str, ...]:
    """Return modules of ours that a file imports, and those of methods whose names stand in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    plain = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    parts = [f"{node.module}.{name.name}" for node in froms for name in node.names]
    imported = (*plain, *(str(node.module) for node in froms), *parts)
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    methods = [module for name, module in _methods() if name in texts]
    return tuple(name for name in (*imported, *methods) if name.startswith(_OURS))


@cache
def _methods() -> list[tuple[str, str]]:
    entries = [entry for kind in KINDS for entry in entries_of(kind).values()]
    return [(name, entry.module) for entry in entries for name in entry.names]


def _file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
