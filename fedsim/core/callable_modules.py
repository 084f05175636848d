"""Modules that are called: `fedsim.audit(...)` where `fedsim.audit` is a package too.

Python binds a package to its name in the parent whenever anything below it is imported. A function of that name would
be there or not, depending on what was imported before. A module that can be called is both, whatever comes first.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module with one function that stands for it."""

    __calls__: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function that the module stands for."""
        return self.__calls__(*args, **kwargs)


def call_module(name: str, function: Callable[..., Any]) -> None:
    """Let a call of the imported module `name` be a call of `function`."""
    module = sys.modules[name]
    module.__class__ = CallableModule
    vars(module).update(__calls__=function, __signature__=inspect.signature(function))
