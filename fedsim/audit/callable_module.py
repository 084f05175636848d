"""Callable modules: `fedsim.audit(...)` works although `fedsim.audit` is also a package.

Python binds a package to its name in the parent when any of its modules is imported. Whether a function of the same
name survives would depend on the order of imports. A callable module works in both cases.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A callable module."""

    __calls__: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module's function."""
        return self.__calls__(*args, **kwargs)


def call_module(name: str, function: Callable[..., Any]) -> None:
    """Make the imported module `name` callable, as `function`."""
    module = sys.modules[name]
    module.__class__ = CallableModule
    vars(module).update(__calls__=function, __signature__=inspect.signature(function))
