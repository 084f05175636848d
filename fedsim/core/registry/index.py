"""Index of fedsim's own methods, read from the syntax trees of their files: no method is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from fedsim.core.errors import FedsimError
from fedsim.core.registry.method import Entry, Kind

FOLDERS: dict[Kind, str] = {
    "attack": "attacks",
    "distance": "attacks.core.matching.distances",
    "prior": "attacks.core.matching.priors",
    "attention": "attacks.core.attentions",
    "defense": "defenses",
    "component": "fedsim.components",
    "aggregator": "fedsim.aggregators",
    "question": "fedsim.questions",
    "metric": "fedsim.metrics",
    "task": "fedsim.tasks",
    "dataset": "fedsim.data",
    "model": "fedsim.models",
}
"""The package of each kind, with one method per file."""

USER_FOLDERS: dict[Kind, str] = {**FOLDERS, "distance": "attacks", "prior": "attacks", "attention": "attacks"}
"""The package of each kind to which a user's folder may add; distances, priors and attentions go to `attacks`."""

HOME = Path(__file__).resolve().parents[3]
"""The folder that contains fedsim's packages."""

BESIDE = ("attacks", "defenses")
"""The packages of methods outside the package `fedsim`."""

_MARKS = ("fedsim.core.registry", "from fedsim.core import registry")
_FIELDS = ("summary", "tier", "paper", "fidelity", "deviates", "paper_steps", "extra", "related", "aliases")


class Decorator(NamedTuple):
    """A decorator of the registry in a source file: its kind, its call, and the file's constants by name."""

    kind: Kind
    call: ast.Call
    constants: Mapping[str, Any]


@cache
def entry_of(kind: Kind, name: str) -> Entry | None:
    """Return the entry of one of fedsim's own methods by its name or an alias; None if there is no such method."""
    quoted = (f'"{name}"', f"'{name}'")
    paths = (path for path, text in _sources().items() if any(word in text for word in quoted))
    entries = (entry for path in paths for entry in _entries_in(path) if entry.kind == kind and name in entry.names)
    return next(entries, None)


@cache
def entries_of(kind: Kind) -> dict[str, Entry]:
    """Return the entries of fedsim's own methods of a kind, by name."""
    marks = (f"@{kind}(", f"@registry.{kind}(")
    paths = [path for path, text in _sources().items() if any(mark in text for mark in marks)]
    return {entry.name: entry for path in paths for entry in _entries_in(path) if entry.kind == kind}


@cache
def _sources() -> dict[Path, str]:
    """Return the text of every file of fedsim that may hold methods; names with an underscore are parts of others."""
    texts: dict[Path, str] = {}
    for folder in (*BESIDE, *(name for name in FOLDERS.values() if name.startswith("fedsim."))):
        root = HOME.joinpath(*folder.split("."))
        for path in sorted(root.rglob("*.py")):
            if not any(part.startswith("_") for part in path.relative_to(root).parts):
                texts[path] = _text(path)
    return texts


@cache
def _entries_in(path: Path) -> list[Entry]:
    """Return the entries of one of fedsim's own files: a list of methods parses a file once."""
    return read(path)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def is_marked(path: Path) -> bool:
    """Return whether a file names the registry; other files may do anything."""
    return _is_marked(_text(path))


def _is_marked(text: str) -> bool:
    return any(mark in text for mark in _MARKS)


def read(path: Path) -> list[Entry]:
    """Return the entries of the decorators in a file, in their order; none for a file that is no Python.

    Raises:
        FedsimError: an argument is neither a literal nor the name of a constant of the file.
    """
    module = ".".join(path.relative_to(HOME).with_suffix("").parts) if path.is_relative_to(HOME) else path.stem
    return [_entry(decorator, module, path) for decorator in _decorators(path)]


def _decorators(path: Path) -> list[Decorator]:
    """Return the registry's decorators of the classes and functions of a file."""
    text = _text(path)
    if not _is_marked(text):
        return []
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return []
    constants: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError):
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    calls = (
        call
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call)
    )
    return [Decorator(kind, call, constants) for call in calls if (kind := _kind(call.func)) is not None]


def _kind(function: ast.expr) -> Kind | None:
    """Return the kind of a decorator that is called as `KIND` or `registry.KIND`; None for other functions."""
    match function:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="registry"), attr=name) if name in FOLDERS:
            return name
        case _:
            return None


@cache
def metrics_beside_questions() -> dict[str, dict[str, Any]]:
    """Return the arguments of every `metric` decorator outside the metrics folder, by name, in the order of modules.

    Questions and tasks declare metrics too. Their arguments are parsed, so that no question is imported for its
    metrics.

    Raises:
        FedsimError: an argument is neither a literal nor the name of a constant of the file.
    """
    other_modules = {
        entry.module for entry in entries_of("metric").values() if not entry.module.startswith(FOLDERS["metric"])
    }
    paths = [HOME.joinpath(*module.split(".")).with_suffix(".py") for module in sorted(other_modules)]
    return {name: description for path in paths for name, description in _metrics_in(path)}


def _metrics_in(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for decorator in _decorators(path):
        if decorator.kind != "metric":
            continue
        try:
            (name,) = (_value(node, decorator.constants) for node in decorator.call.args)
            yield name, {str(word.arg): _value(word.value, decorator.constants) for word in decorator.call.keywords}
        except (KeyError, ValueError) as error:
            raise FedsimError(
                f"{path}: the arguments of @metric are read before the file is imported. Write each as text, number or "
                "other literal."
            ) from error


def _entry(decorator: Decorator, module: str, path: Path) -> Entry:
    kind, call, constants = decorator
    try:
        (name,) = (_value(node, constants) for node in call.args)
        fields = {word.arg: _value(word.value, constants) for word in call.keywords if word.arg in _FIELDS}
    except (KeyError, ValueError) as error:
        raise FedsimError(
            f"{path}: name and {', '.join(_FIELDS)} in @{kind} are read before the file is imported. Write each as a "
            "literal, or as the name of a constant of the file."
        ) from error
    hook = cast("Any", module.split(".")[2] if module.startswith("fedsim.components.") else None)
    sequences = {field: tuple(fields.pop(field, ())) for field in ("aliases", "paper_steps")}
    return Entry(kind=kind, name=name, module=module, hook=hook, **sequences, **fields)


def _value(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    return constants[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
