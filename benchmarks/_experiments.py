"""Experiments are found, never listed: a file of this folder with the decorator is enough.

What the decorator says is read from the file; the module is imported when its experiment is named.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._rows import Row
from fedsim.core.errors import FedsimError, did_you_mean

FOLDER = Path(__file__).parent


class Budget(NamedTuple):
    """What a run may take.

    Attributes:
        full: whether it is the long version.
        seconds: of the processor, for an attack on one update; None where the experiment bounds no attack.
    """

    full: bool = False
    seconds: float | None = None


Measure = Callable[[], Iterable[Row]]
Cells = Mapping[str, Measure]
"""Pieces of work that need nothing of each other, by name."""
_cell_functions: dict[str, Callable[[Budget], Cells]] = {}


class Experiment(NamedTuple):
    """What a decorator says, and where it stands.

    Attributes:
        name: on the command line, and of the results file.
        minutes: of the processor, of the short version.
        page: that shows its figures, below docs and without its ending.
        seconds: of the processor that an attack on an update gets by default; None where there is none to bound.
        module: that holds it.
        summary: first line of the module's docstring.
    """

    name: str
    minutes: float
    page: str
    seconds: float | None
    module: str
    summary: str

    def cells(self, budget: Budget) -> Cells:
        """Import the module and return the experiment's pieces of work."""
        importlib.import_module(self.module)
        return _cell_functions[self.name](budget)


def experiment(
    name: str, *, minutes: float, page: str, seconds: float | None = None
) -> Callable[[Callable[[Budget], Cells]], Callable[[Budget], Cells]]:
    """Register a function that returns the cells of an experiment; `Experiment` says what the arguments mean."""
    del minutes, page, seconds  # `experiments` reads them from the file

    def decorate(cells: Callable[[Budget], Cells]) -> Callable[[Budget], Cells]:
        _cell_functions[name] = cells
        return cells

    return decorate


def experiments(folder: Path = FOLDER) -> dict[str, Experiment]:
    """Return what the files of a folder declare, by name."""
    files = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return {entry.name: entry for path in files for entry in _read_experiments(path)}


def find(name: str) -> Experiment:
    """Return an experiment.

    Raises:
        FedsimError: there is none of this name.
    """
    known = experiments()
    if name not in known:
        raise FedsimError(
            f"no experiment is called '{name}'.{did_you_mean(name, known)} See python -m benchmarks --list"
        )
    return known[name]


def _read_experiments(path: Path) -> Iterator[Experiment]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == experiment.__name__:
                says: dict[str, Any] = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                module = f"{FOLDER.name}.{path.stem}"
                yield Experiment(
                    name=ast.literal_eval(call.args[0]), **{"seconds": None, **says}, module=module, summary=summary
                )
