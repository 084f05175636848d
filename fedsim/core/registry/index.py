"""Index of fedsim's own methods, parsed from their decorators without importing them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

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
    "membership": "attacks.membership",
    "attribute": "attacks.attributes",
    "trace": "attacks.generation",
    "evidence_attack": "attacks",
    "evidence_defense": "defenses",
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

_KINDS: dict[str, Kind] = {
    **{kind: kind for kind in FOLDERS if kind not in ("attribute", "trace")},
    "attribute_attack": "attribute",
    "trace_attack": "trace",
}
_MARKS = ("fedsim.core.registry", "from fedsim.core import registry")
_DECORATOR = re.compile(rf"^@(?:registry\.)?({'|'.join(_KINDS)})(\(.*?\))\n(?=@|class |def )", re.MULTILINE | re.DOTALL)
_TEXT = re.compile(r'^(\w+) = (".*?")(?: *#.*)?$', re.MULTILINE)
_FIELDS = ("summary", "paper", "fidelity", "deviates", "paper_steps", "extra", "related", "aliases")


def entry_of(kind: Kind, name: str) -> Entry | None:
    """Return the entry of fedsim's own method of this name or alias, or None."""
    return _by_names().get((kind, name))


@cache
def entries_of(kind: Kind) -> dict[str, Entry]:
    """Return the entries of fedsim's own methods of a kind, by name."""
    return {entry.name: entry for entry in _by_names().values() if entry.kind == kind}


@cache
def _by_names() -> dict[tuple[Kind, str], Entry]:
    return {(entry.kind, name): entry for path in _files() for entry in read(path) for name in entry.names}


def _files() -> Iterator[Path]:
    """Yield fedsim's files that may contain methods, without files at or below a name with an underscore."""
    for folder in (*BESIDE, *(name for name in FOLDERS.values() if name.startswith("fedsim."))):
        root = HOME.joinpath(*folder.split("."))
        for path in sorted(root.rglob("*.py")):
            if not any(part.startswith("_") for part in path.relative_to(root).parts):
                yield path


def is_marked(path: Path) -> bool:
    """Return whether a file names the registry; other files are not imported."""
    return _is_marked(path.read_text(encoding="utf-8", errors="replace"))


def _is_marked(text: str) -> bool:
    return any(mark in text for mark in _MARKS)


def read(path: Path) -> list[Entry]:
    """Parse the decorators in a file.

    Raises:
        FedsimError: an argument is neither a literal text nor the name of a literal text in the file.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if not _is_marked(text):
        return []
    texts = {name: ast.literal_eval(value) for name, value in _TEXT.findall(text)}
    module = ".".join(path.relative_to(HOME).with_suffix("").parts) if path.is_relative_to(HOME) else path.stem
    return [_entry(_KINDS[name], call, texts, module, path) for name, call in _DECORATOR.findall(text)]


@cache
def metrics_beside_questions() -> dict[str, dict[str, Any]]:
    """Return the arguments of every `metric` decorator outside the metrics folder, by name, in the order of modules.

    Questions and tasks declare metrics too. Their arguments are parsed, so that no question is imported for its
    metrics.

    Raises:
        FedsimError: an argument is no literal.
    """
    outside = {
        entry.module for entry in entries_of("metric").values() if not entry.module.startswith(FOLDERS["metric"])
    }
    paths = [HOME.joinpath(*module.split(".")).with_suffix(".py") for module in sorted(outside)]
    return {name: about for path in paths for name, about in _metrics_in(path)}


def _metrics_in(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = path.read_text(encoding="utf-8")
    texts = {name: ast.literal_eval(value) for name, value in _TEXT.findall(text)}
    for kind, call in _DECORATOR.findall(text):
        if kind != "metric":
            continue
        decorator = cast("ast.Call", ast.parse(f"_{call}", mode="eval").body)
        try:
            (name,) = (_value(node, texts) for node in decorator.args)
            yield name, {str(word.arg): _value(word.value, texts) for word in decorator.keywords}
        except (KeyError, ValueError) as error:
            raise FedsimError(
                f"{path}: the arguments of @metric are read before the file is imported. Write each as text, number or "
                "other literal."
            ) from error


def _entry(kind: Kind, call: str, texts: dict[str, str], module: str, path: Path) -> Entry:
    try:
        decorator = cast("ast.Call", ast.parse(f"_{call}", mode="eval").body)
        (name,) = (_value(node, texts) for node in decorator.args)
        about = {word.arg: _value(word.value, texts) for word in decorator.keywords if word.arg in _FIELDS}
    except (KeyError, SyntaxError, ValueError) as error:
        raise FedsimError(
            f"{path}: name and {', '.join(_FIELDS)} in @{kind} are read before the file is imported. Write each as "
            "text, or as a name that the file gives to a text of one line."
        ) from error
    hook = cast("Any", module.split(".")[2] if module.startswith("fedsim.components.") else None)
    several = {field: tuple(about.pop(field, ())) for field in ("aliases", "paper_steps")}
    return Entry(kind=kind, name=name, module=module, hook=hook, **several, **about)


def _value(node: ast.expr, texts: dict[str, str]) -> Any:
    return texts[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)
