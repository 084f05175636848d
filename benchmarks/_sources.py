"""The files that an experiment measures, and a digest of what each of them does.

Of a helper of this folder only that counts which an experiment imports, and what this needs: a constant that stands
beside a list of cases does not make a result look old when the list grows.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
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
_ALL = "*"  # in place of a name: the whole file


def digests_of(module: str) -> dict[str, str]:
    """Return digests of an experiment's files, by their paths.

    They are its module, what it imports of helpers of this folder, what of ours these import, and the files of methods
    that they name.
    """
    names: dict[Path, set[str]] = {}
    waiting = [(module, _ALL)]
    while waiting:
        module, name = waiting.pop()
        file = _file_of(module)
        if file is None:
            continue
        is_helper = FOLDER in file.parents
        taken, name = names.setdefault(file, set()), name if is_helper else _ALL
        if {name, _ALL} & taken:
            continue
        taken.add(name)
        if is_helper:
            waiting += _needed(_used(file, frozenset({name})))
    paths = {str(file.relative_to(ROOT)): file for file in sorted(names)}
    return {
        path: digest(ast.unparse(_used(file, frozenset(names[file]))))
        for path, file in paths.items()
        if not path.startswith(_GROUND)
    }


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
def _used(file: Path, names: frozenset[str]) -> ast.Module:
    """Return the statements of a file that give these names a meaning, and all that those use."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if _ALL in names:
        return tree
    taken, waiting = set[int](), set(names)
    while waiting:
        chosen = {i for i, node in enumerate(tree.body) if i not in taken and waiting & _given(node)}
        taken |= chosen
        waiting = {name.id for i in chosen for name in ast.walk(tree.body[i]) if isinstance(name, ast.Name)}
    return ast.Module([tree.body[i] for i in sorted(taken)], [])


def _given(statement: ast.stmt) -> set[str]:
    """Return the names that a statement gives a meaning."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(name.asname or name.name).partition(".")[0] for name in names}
        case _:
            names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _needed(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield modules of ours that statements import, with the names that they take, and those of methods named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from _of_ours((name.name, _ALL) for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from _of_ours((f"{node.module}.{name.name}", _ALL) for name in node.names)
            yield from _of_ours((node.module, name.name) for name in node.names)
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    yield from _of_ours((module, _ALL) for name, module in _methods() if name in texts)
    split = (text.partition(":") for text in texts)
    yield from _of_ours((module, name) for module, _, name in split if name.isidentifier())


def _of_ours(modules: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((module, name) for module, name in modules if module.startswith(_OURS))


@cache
def _methods() -> list[tuple[str, str]]:
    entries = [entry for kind in KINDS for entry in entries_of(kind).values()]
    return [(name, entry.module) for entry in entries for name in entry.names]


def _file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
