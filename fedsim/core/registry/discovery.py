"""Import of methods from fedsim's folders, the working folder, and installed packages."""

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
from fedsim.core.registry import index
from fedsim.core.registry.index import FOLDERS, HOME, USER_FOLDERS
from fedsim.core.registry.method import Kind

_entry_points = cache(entry_points)  # of all kinds, because a selection by kind is as slow


class _UserFolders(MetaPathFinder):
    """Import finder for fedsim's folders of methods, with priority over equal names on the search path.

    Folders of the same name elsewhere on the search path, e.g. in the working folder, add further modules.
    """

    names = frozenset(folder for folder in USER_FOLDERS.values() if not folder.startswith("fedsim."))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, [str(HOME)] if path is None else path)
        if spec is not None and spec.submodule_search_locations is not None:
            paths = pkgutil.extend_path(list(spec.submodule_search_locations), fullname)
            if path is None:
                paths += [str(inner) for folder in process.own_folders if (inner := Path(folder, fullname)).is_dir()]
            spec.submodule_search_locations = list(dict.fromkeys(paths))
        return spec


sys.meta_path.insert(0, _UserFolders())


@cache
def discover(kind: Kind) -> None:
    """Import every method of a kind, once.

    Raises:
        FedsimError: a method cannot be imported, or another package has the name of one of fedsim's folders.
    """
    package = _import_package(FOLDERS[kind])
    for module in modules_below(package.__name__, package.__path__[0]):
        importlib.import_module(module)
    add_others(kind)


def import_own(module: str) -> None:
    """Import one of fedsim's own methods.

    Raises:
        FedsimError: another package has the name of its folder.
    """
    package = module.partition(".")[0]
    if package in _UserFolders.names:
        _import_package(package)
    importlib.import_module(module)


@cache
def add_others(kind: Kind) -> None:
    """Import the user's and third-party methods of a kind: from the working folder, and from installed packages.

    Raises:
        FedsimError: a method cannot be imported.
    """
    for path in _files_of_others(kind):
        _add(USER_FOLDERS[kind], path)
    for point in _entry_points().select(group=f"fedsim.{kind}s"):
        try:
            point.load()
        except Exception as error:
            raise FedsimError(
                f"the {kind} '{point.name}' of package '{point.dist.name if point.dist else point.value}' "
                f"cannot be imported: {error!r}. Repair or uninstall that package."
            ) from error


def add_named(kind: Kind, name: str) -> None:
    """Import the files of the working folder that contain, or may contain, a method of this name.

    Raises:
        FedsimError: a file cannot be imported, or two methods have the same name.
    """
    for path in _files_of_others(kind):
        if _may_have(path, kind, name):
            _add(USER_FOLDERS[kind], path)


def modules_below(package: str, folder: str) -> Iterator[str]:
    """Yield the modules below a package's folder, without modules at or below a name with an underscore."""
    for info in pkgutil.walk_packages([folder], prefix=f"{package}."):
        parts = info.name.removeprefix(f"{package}.").split(".")
        if not any(part.startswith("_") for part in parts):
            yield info.name


def _import_package(name: str) -> ModuleType:
    package = importlib.import_module(name)
    ours = package.__path__[0]
    if not Path(ours).resolve().is_relative_to(HOME):
        raise FedsimError(
            f"'{name}' was imported from {ours} before fedsim, which has a package of this "
            "name. Import fedsim first, or rename the other package."
        )
    return package


def _files_of_others(kind: Kind) -> Iterator[Path]:
    """Yield the user's files that may contain methods of a kind: those that name the registry."""
    if USER_FOLDERS[kind] not in _UserFolders.names:
        return
    package = _import_package(USER_FOLDERS[kind])
    for folder in map(Path, package.__path__[1:]):
        if _is_of_a_copy(package.__name__, folder):
            continue
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_") and path.stem.isidentifier() and index.is_marked(path):
                yield path


def _is_of_a_copy(package: str, folder: Path) -> bool:
    """Return whether a folder belongs to another copy of fedsim, e.g. a checkout besides an installed package."""
    root = folder.resolve().parents[package.count(".")]
    return (root / "fedsim" / "core" / "registry" / "__init__.py").exists()


def _may_have(path: Path, kind: Kind, name: str) -> bool:
    try:
        return any(entry.kind == kind and name in entry.names for entry in index.read(path))
    except FedsimError:  # the name is computed
        return True


def _add(package: str, path: Path) -> None:
    """Import a user's file of methods."""
    process.find_own_modules(package)
    try:
        module = importlib.import_module(f"{package}.{path.stem}")
    except Exception as error:
        raise FedsimError(
            f"{path} cannot be imported: {describe_exception(error)}. Repair it, or move it elsewhere."
        ) from error
    if module.__file__ is None or not Path(module.__file__).samefile(path):
        raise FedsimError(f"{path} has the name of fedsim's own '{package}.{path.stem}'. Rename the file.")
