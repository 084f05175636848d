"""Source files of an experiment, and a digest of the behaviour of each.

A helper module of this folder counts with the definitions that the experiment imports and their dependencies: a new
case in a list does not make results stale that import a constant of the same file.
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
# Shared code of all experiments: tests cover it, and each change would make every result stale.
_GROUND = (
    *("fedsim/core/", "fedsim/scenario/", "fedsim/record/", "fedsim/cli/", "fedsim/experiment/"),
    *("benchmarks/_experiments.py", "benchmarks/_rows.py"),
)
_ALL = "*"  # in place of a name: the whole file
_WORDS = frozenset({"summary", "paper", "fidelity", "deviates", "paper_steps", "related"})  # of a method's decorator


def digests_of(module: str) -> dict[str, str]:
    """Return digests of an experiment's source files, by path.

    The files are the experiment's module, the helper modules and product modules that it imports, and the files of the
    methods that it names.
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
            waiting += _imported_names(_used(file, frozenset({name})))
    paths = {str(file.relative_to(ROOT)): file for file in sorted(names)}
    return {
        path: digest(ast.unparse(_used(file, frozenset(names[file]))))
        for path, file in paths.items()
        if not path.startswith(_GROUND)
    }


def digest(source: str) -> str:
    """Return a digest of a Python file's behaviour.

    Comments, docstrings, layout, import statements and the words of a method's decorator about its paper do not count.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if is_documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        for _, block in ast.iter_fields(node):
            if isinstance(block, list):
                block[:] = [part for part in block if not isinstance(part, ast.Import | ast.ImportFrom)]
        if is_documented:
            node.body = node.body or [ast.Pass()]
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call):
                decorator.keywords = [word for word in decorator.keywords if word.arg not in _WORDS]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:8]


def changed_files(before: Mapping[str, str], module: str) -> list[str]:
    """Return the source files of an experiment whose digests differ from `before`, new and removed files included."""
    now = digests_of(module)
    return sorted(path for path in {**before, **now} if before.get(path) != now.get(path))


@cache
def _used(file: Path, names: frozenset[str]) -> ast.Module:
    """Return the statements of a file that bind the names, with the statements that these depend on."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if _ALL in names:
        return tree
    taken, waiting = set[int](), set(names)
    while waiting:
        chosen = {i for i, node in enumerate(tree.body) if i not in taken and waiting & _bound_names(node)}
        taken |= chosen
        waiting = {name.id for i in chosen for name in ast.walk(tree.body[i]) if isinstance(name, ast.Name)}
    return ast.Module([tree.body[i] for i in sorted(taken)], [])


def _bound_names(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(name.asname or name.name).partition(".")[0] for name in names}
        case _:
            names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield imported modules of this project with the imported names, and the modules of the methods named in texts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from _own_modules((name.name, _ALL) for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from _own_modules((f"{node.module}.{name.name}", _ALL) for name in node.names)
            yield from _own_modules((node.module, name.name) for name in node.names)
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    yield from _own_modules((module, _ALL) for name, module in _methods() if name in texts)
    split = (text.partition(":") for text in texts)
    yield from _own_modules((module, name) for module, _, name in split if name.isidentifier())


def _own_modules(modules: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((module, name) for module, name in modules if module.startswith(_OURS))


@cache
def _methods() -> list[tuple[str, str]]:
    entries = [entry for kind in KINDS for entry in entries_of(kind).values()]
    return [(name, entry.module) for entry in entries for name in entry.names]


def _file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)
