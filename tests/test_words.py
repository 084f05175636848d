"""Names say what things are: a public class is the only one of its name, and no name is a word that says nothing."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {"own", "found", "told", "asked", "drawn"}
MENTION = re.compile(rf"\b_*(?:{'|'.join(WORDS)})_*\b", re.IGNORECASE)
FILES = [file for top in ("fedsim", "attacks", "defenses") for file in sorted((ROOT / top).rglob("*.py"))]


@cache
def trees() -> dict[str, ast.Module]:
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a file gives to something, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


def empty_words(tree: ast.AST) -> list[tuple[str, int]]:
    return [(name, line) for name, line in bound_names(tree) if name.strip("_").lower() in WORDS]


def test_no_name_is_a_word_that_says_nothing() -> None:
    where = [
        f"{path}:{line}: '{name}' says nothing about what it is"
        for path, tree in trees().items()
        if MENTION.search((ROOT / path).read_text(encoding="utf-8"))  # few do, and to walk all trees takes seconds
        for name, line in empty_words(tree)
    ]
    assert not where, "\n".join(where)


def test_a_public_class_is_the_only_one_of_its_name() -> None:
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    twins = [f"{name}: {', '.join(lines)}" for name, lines in sorted(places.items()) if len(lines) > 1]
    assert not twins, "\n".join(twins)


@pytest.mark.parametrize(
    "code",
    [
        "own = 1", "for found in x: pass", "[told for told in x]", "lambda asked: 1", "def _drawn(): pass",
        "class Found: pass", "def f(*, own): pass", "with x as _own: pass", "(found := 1)", "import a as told",
        "try: pass\nexcept E as asked: pass", "match x:\n    case [*drawn]: pass", "match x:\n    case own: pass",
    ],
)  # fmt: skip
def test_each_way_to_bind_a_name_is_seen(code: str) -> None:
    assert len(empty_words(ast.parse(code))) == 1


@pytest.mark.parametrize("code", ["owner = 1", "x.own", "f(found=1)", "'told'", "owned, drawn_losses = x"])
def test_reading_a_name_and_longer_names_are_no_slip(code: str) -> None:
    assert not empty_words(ast.parse(code))
