"""Every public file with behaviour has a test file in its mirrored place; a private one may be tested by its caller."""

import ast
from pathlib import Path

import pytest

from tests.mirror import ROOMS, mirrored

ROOT = Path(__file__).parents[1]


def behaves(code: str) -> bool:
    """Whether a file defines a function that does something. Declarations (types, protocols, names) have no tests."""
    functions = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(not all(map(_says_nothing, function.body)) for function in functions)


def has_tests(file: Path) -> bool:
    """Return whether a file exists and defines a test."""
    return file.exists() and "def test_" in file.read_text(encoding="utf-8")


def _says_nothing(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, `...` or `pass`."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("class A:\n    '''Says.'''\n    number: int = 3\n", False),
        ("class A(Protocol):\n    def told(self) -> None:\n        '''Says.'''\n        ...\n", False),
        ("class A:\n    @property\n    def two(self) -> int:\n        return 2\n", True),
        ("async def f() -> None:\n    await g()\n", True),
    ],
)
def test_what_only_declares_needs_no_tests(code: str, expected: bool) -> None:
    assert behaves(code) is expected


def test_every_public_file_with_behaviour_has_a_test_file_of_its_own() -> None:
    parts = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if not path.name.startswith("_"))
    files = [path.relative_to(ROOT) for path in parts if behaves(path.read_text(encoding="utf-8"))]
    assert Path("fedsim/threat/observe.py") in files
    missing = [f"{file} has no test. Write {mirrored(file)}." for file in files if not has_tests(ROOT / mirrored(file))]
    assert not missing, "\n".join(missing)
