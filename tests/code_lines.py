"""Count lines of code by folder, without blank lines, comments and docstrings: `python tests/code_lines.py`."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FOLDERS = ("fedsim", "attacks", "defenses", "benchmarks", "tests")


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


def main(folders: list[str]) -> None:
    """Print the lines of each folder, and of the folders below it."""
    for folder in folders:
        below: Counter[str] = Counter()
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).parts
            below[parts[0] if len(parts) > 1 else "."] += count(path.read_text(encoding="utf-8"))
        print(f"{folder:<12} {below.total():>7,}")
        for name, lines in sorted(below.items()):
            print(f"  {name:<20} {lines:>7,}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(_FOLDERS))
