"""Modules of the core import each other in one direction, wherever in a file an import stands."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAZY = "fedsim.core.registry"  # its front door names what it opens, and imports it when it is asked for


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Modules that a file names in an import, or as a text that is imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in whole)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in modules:
            yield node.value


def test_no_module_of_the_core_imports_one_that_imports_it() -> None:
    files = {named(path): path for path in (ROOT / "fedsim" / "core").rglob("*.py")}
    del files[LAZY]
    graph = {
        module: {other for other in imported(path, set(files)) if other in files} - {module}
        for module, path in files.items()
    }
    assert "fedsim.core.types.tasks" in graph["fedsim.core.types.observations"]
    TopologicalSorter(graph).prepare()  # raises at a circle, and names it
