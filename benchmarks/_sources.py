"""Files of this project that a measurement loads, and a digest of the behaviour of each."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks._experiments import FOLDER

ROOT = FOLDER.parent
_OURS = ("benchmarks", "fedsim", "attacks", "defenses")
# Shared code of all experiments: tests cover it, and each change would make every result stale.
_GROUND = (
    "fedsim/__init__.py",
    "fedsim/core/",
    "fedsim/scenario/",
    "fedsim/record/",
    "fedsim/cli/",
    "fedsim/experiment/",
    "fedsim/processes/",
)
_WORDS = frozenset({"summary", "paper", "fidelity", "deviates", "paper_steps", "related"})  # of a method's decorator
_ESTIMATES = frozenset(  # methods of an attack that order `auto`, and no more
    {"outlook", "estimate_success", "same_search", "count_gradients", "count_hypotheses"}
)
_NOT_RUN = frozenset({"minutes", "title", "description"})  # keys of a scenario without effect on its run


class LoadedFiles:
    """The project's files that this process loads: modules, tables of scenarios and cases, programs of subprocesses.

    Modules of this folder that are loaded before belong to the program that runs experiments, and do not count.
    """

    def __init__(self) -> None:
        self._program = {path for path in _module_files() if path.parent == FOLDER}
        self._others = set[Path]()
        sys.addaudithook(self._watch)

    def digests(self) -> dict[str, str]:
        """Return the digest of each file, by its path from the root of the checkout."""
        paths = sorted(_relative(file) for file in (_module_files() | self._others) - self._program)
        return {path: digest_of_file(ROOT / path) for path in paths if not path.startswith(_GROUND)}

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(".toml"):
            self._add(arguments[0])
        if event == "subprocess.Popen":
            for word in arguments[1]:
                self._add(os.fsdecode(word))
                self._add(os.fsdecode(word).replace(".", "/") + ".py")

    def _add(self, name: str) -> None:
        path = (ROOT / name).absolute()
        if path.suffix in (".py", ".toml") and path.is_relative_to(ROOT) and len(_relative(path).split("/")) > 1:
            self._others |= {path} if path.is_file() else set()


def changed_files(sources: Mapping[str, str]) -> list[str]:
    """Return the files whose digests differ from `sources`, removed files included."""
    counted = {path: before for path, before in sources.items() if not path.startswith(_GROUND)}
    return [path for path, before in counted.items() if digest_of_file(ROOT / path) != before]


def digest_of_file(file: Path) -> str:
    """Return a digest of the behaviour of a Python file or a table; empty if the file does not exist."""
    if not file.is_file():
        return ""
    text = file.read_text(encoding="utf-8")
    return digest_of_table(text) if file.suffix == ".toml" else digest(text)


def digest_of_table(text: str) -> str:
    """Return a digest of a TOML text without comments, title, description and minutes."""
    table = {key: value for key, value in tomllib.loads(text).items() if key not in _NOT_RUN}
    return _hash(json.dumps(table, sort_keys=True, default=str))


@cache
def digest(source: str) -> str:
    """Return a digest of a Python file's behaviour.

    Comments, docstrings, layout, import statements, the words of a method's decorator about its paper, and an attack's
    estimates of its own cost do not count.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if is_documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        for _, block in ast.iter_fields(node):
            if isinstance(block, list):
                block[:] = [part for part in block if not _is_no_behaviour(part)]
        if is_documented:
            node.body = node.body or [ast.Pass()]
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call):
                decorator.keywords = [word for word in decorator.keywords if word.arg not in _WORDS]
    return _hash(ast.unparse(tree))


def _is_no_behaviour(node: ast.AST) -> bool:
    is_estimate = isinstance(node, ast.FunctionDef) and node.name in _ESTIMATES
    return is_estimate or isinstance(node, ast.Import | ast.ImportFrom)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _module_files() -> set[Path]:
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in _OURS]
    files = (Path(file) for module in modules if (file := getattr(module, "__file__", None)))
    return {file for file in files if file.is_relative_to(ROOT)}


def _relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()
