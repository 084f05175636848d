"""Old names of public functions and classes, which work for one version more: each use of one warns."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def old_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module in which these old names stand for new ones.

    Args:
        module: its name.
        names: by old name the new one, as ``name`` in the same module or ``package.module:name`` in another.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        home, _, new = names[name].rpartition(":")
        told = f"{home}.{new}" if home else new
        message = f"{module}.{name} is now {told}. The next version does not know the old name."
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(home or module), new)

    return find
