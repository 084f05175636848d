"""Lookup of an audit target, before slow imports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from fedsim.core import process
from fedsim.core.errors import FedsimError


class Target(NamedTuple):
    """A function of a module, named by import path or by file."""

    module: str
    attribute: str

    @property
    def file(self) -> Path | None:
        """The file, if the module is named by file."""
        return Path(self.module) if self.module.endswith(".py") else None


def find(target: str) -> Target | Path:
    """Return the function named by ``package.module:name`` or ``folder/file.py:name``, or a Flower app's path.

    Nothing is imported: an existing package may still lack the module.

    Raises:
        FedsimError: the text has another format, or the file or package is missing.
    """
    if ":" not in target and (Path(target).is_dir() or target.endswith(".fab")):
        return Path(target)
    module, colon, attribute = target.rpartition(":")
    if not colon or not module or not attribute:
        raise FedsimError(
            f"'{target}' names nothing to audit, expected package.module:function or folder/file.py:function, as in "
            "my_pkg.train:make, or the folder of a Flower app."
        )
    function = Target(module, attribute)
    if function.file is not None:
        if not function.file.is_file():
            raise FedsimError(f"no file {module} for '{target}', searched from {Path.cwd().name or '/'}.")
        return function
    process.find_own_modules(module)
    package = module.partition(".")[0]
    if package and package not in sys.modules and importlib.util.find_spec(package) is None:
        raise FedsimError(
            f"cannot import '{module}' for '{target}': module '{package}' not found. Run from "
            "the folder that contains it, or install it."
        )
    return function
