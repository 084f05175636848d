"""Finds methods by their folders: fedsim's own, those of the working folder, and those of installed packages."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from fedsim.core import process
from fedsim.core.errors import FedsimError, describe_exception
from fedsim.core.registry.method import Kind

_FOLDERS: dict[Kind, str] = {
    "attack": "attacks",
    "defense": "defenses",
    "component": "fedsim.components",
    "aggregator": "fedsim.aggregators",
    "membership": "attacks.membership",
    "attribute": "attacks.attributes",
    "trace": "attacks.generation",
    "question": "fedsim.questions",
    "metric": "fedsim.metrics",
    "task": "fedsim.tasks",
    "dataset": "fedsim.data",
    "model": "fedsim.models",
}

_HOME = Path(__file__).resolve().parents[3]
_MARKS = (b"fedsim.core.registry", b"from fedsim.core import registry")


class _Own(MetaPathFinder):
    """Finds fedsim's own folders of methods beside fedsim, whatever else has such a name.

    Folders of that name elsewhere on the search path, as one in the working folder, add what ours does not have.
    """

    names = frozenset(folder for folder in _FOLDERS.values() if not folder.startswith("fedsim."))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, [str(_HOME)] if path is None else path)
        if spec is not None and spec.submodule_search_locations is not None:
            every = pkgutil.extend_path(list(spec.submodule_search_locations), fullname)
            if path is None:
                every += [str(own) for folder in process.own_folders if (own := Path(folder, fullname)).is_dir()]
            spec.submodule_search_locations = list(dict.fromkeys(every))
        return spec


sys.meta_path.insert(0, _Own())


@cache
def discover(kind: Kind) -> None:
    """Import every method of a kind, once.

    Raises:
        FedsimError: one cannot be imported, or another package took the name of one of fedsim's folders.
    """
    package = importlib.import_module(_FOLDERS[kind])
    ours, *others = package.__path__
    if not Path(ours).resolve().is_relative_to(_HOME):
        raise FedsimError(
            f"'{package.__name__}' was imported from {ours} before fedsim, which has a package of this name. "
            "Import fedsim first, or rename the other one."
        )
    for module in modules_below(package.__name__, ours):
        importlib.import_module(module)
    for folder in others:
        if not _is_of_a_copy(package.__name__, Path(folder)):
            _add(package.__name__, Path(folder))
    for point in entry_points(group=f"fedsim.{kind}s"):
        try:
            point.load()
        except Exception as error:
            raise FedsimError(
                f"the {kind} '{point.name}' of package '{point.dist.name if point.dist else point.value}' "
                f"cannot be imported: {error!r}. Repair or uninstall that package."
            ) from error


def modules_below(package: str, folder: str) -> Iterator[str]:
    """Yield the modules below a package's folder; those at or below a name with an underscore are parts."""
    for info in pkgutil.walk_packages([folder], prefix=f"{package}."):
        below = info.name.removeprefix(f"{package}.").split(".")
        if not any(part.startswith("_") for part in below):
            yield info.name


def _is_of_a_copy(package: str, folder: Path) -> bool:
    """Tell whether a folder belongs to another copy of fedsim, as a checkout beside an installed one."""
    root = folder.resolve().parents[package.count(".")]
    return (root / "fedsim" / "core" / "registry" / "__init__.py").exists()


def _add(package: str, folder: Path) -> None:
    """Import the methods in a folder that is not fedsim's: files that name the registry. Others may do anything."""
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_") or not path.stem.isidentifier() or not _is_marked(path):
            continue
        process.find_own_modules(package)
        try:
            module = importlib.import_module(f"{package}.{path.stem}")
        except Exception as error:
            raise FedsimError(
                f"{path} cannot be imported: {describe_exception(error)}. Repair it, or move it elsewhere."
            ) from error
        if module.__file__ is None or not Path(module.__file__).samefile(path):
            raise FedsimError(f"{path} has the name of fedsim's own '{package}.{path.stem}'. Rename the file.")


def _is_marked(path: Path) -> bool:
    content = path.read_bytes()
    return any(mark in content for mark in _MARKS)
