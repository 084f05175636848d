"""Count lines of code by room, without blank lines, comments and docstrings: `make size` prints the table."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PRODUCT = ("fedsim", "attacks", "defenses")


def count(source: str) -> int:
    """Return how many lines of a module hold code."""
    tree = ast.parse(source)
    texts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            first = node.body[0]
            texts.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - texts)


def table(root: Path) -> Iterator[str]:
    """Yield a line per room with the code lines of its product and its tests, then the totals of a checkout."""
    product, files = Counter[str](), Counter[str]()
    for path in (path for folder in _PRODUCT for path in (root / folder).rglob("*.py")):
        room = _room(path.relative_to(root / "fedsim" if path.is_relative_to(root / "fedsim") else root))
        product[room] += count(path.read_text(encoding="utf-8"))
        files[room] += 1
    tests = Counter[str]()
    for path in (root / "tests").rglob("*.py"):
        tests[_room(path.relative_to(root / "tests"))] += count(path.read_text(encoding="utf-8"))
    yield f"{'room':<28} {'files':>6} {'product':>8} {'tests':>8}"
    for room in sorted(product | tests):
        yield f"{room:<28} {files[room]:>6,} {product[room]:>8,} {tests[room]:>8,}"
    yield f"{'all':<28} {files.total():>6,} {product.total():>8,} {tests.total():>8,}"
    yield f"benchmarks: {sum(map(count, _texts(root, 'benchmarks', 'py'))):,} code lines"
    for name, folder, ending in (("pages", "docs", "md"), ("scenarios", "scenarios", "toml")):
        yield f"{name}: {sum(len(text.splitlines()) for text in _texts(root, folder, ending)):,} lines"
    figures = sum(len(json.loads(text)["figures"]) for text in _texts(root, "scenarios/expected", "json"))
    yield f"expected figures: {figures:,}"


def _room(path: Path) -> str:
    """Return the room of a file: its first folder, two folders for attacks and defenses."""
    folders = path.parts[:-1]
    return "/".join(folders[: 2 if path.parts[0] in _PRODUCT else 1]) or "."


def _texts(root: Path, folder: str, ending: str) -> Iterable[str]:
    return (path.read_text(encoding="utf-8") for path in sorted((root / folder).rglob(f"*.{ending}")))


if __name__ == "__main__":
    print("\n".join(table(Path())))
