"""User functions, which a scenario names as ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from fedsim.core import process
from fedsim.core.errors import FedsimError, describe_exception, did_you_mean
from fedsim.core.registry.method import F, Kind, Method
from fedsim.core.settings import Config

_marked_functions: list[Callable[..., Any]] = []


class OpenConfig(Config, extra="allow"):
    """Settings of a user function: passed as keyword arguments, without checks."""


def for_scenarios(function: F) -> F:
    """Mark a user function so that scenario files may name it. Untrusted files may name no other user function."""
    _marked_functions.append(function)
    return function


def check_marked(name: str, instead: str = "") -> None:
    """Check that ``package.module:function`` is marked with `for_scenarios`.

    Args:
        name: name of the function.
        instead: alternative to the mark for the message.

    Raises:
        FedsimError: it is not marked, or cannot be imported.
    """
    function = _import_callable(name)
    if not any(function is marked for marked in _marked_functions):
        raise FedsimError(
            f"the function '{name}' is not marked for scenarios. If it is yours, write @for_scenarios above it (from "
            f"fedsim.core.registry import for_scenarios){instead}."
        )


def method_of(kind: Kind, name: str) -> Method[Any]:
    """Return the method that calls ``package.module:function``.

    Raises:
        FedsimError: it cannot be imported.
    """
    function = _import_callable(name)

    def make(config: OpenConfig, *context: Any) -> Any:
        try:
            return cast("Callable[..., Any]", function)(*context, **(config.model_extra or {}))
        except FedsimError:
            raise
        except Exception as error:
            raise FedsimError(f"{kind} '{name}' failed: {describe_exception(error)}.") from error

    return Method(
        kind=kind,
        name=name,
        module=name.partition(":")[0],
        summary="a function of your own",
        make=make,
        config=OpenConfig,
    )


def _import_callable(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    process.find_own_modules(module_name)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FedsimError(
            f"cannot import '{module_name}' for '{name}': {error}. Run from the folder that contains it, or install it."
        ) from error
    except Exception as error:
        raise FedsimError(f"importing '{module_name}' for '{name}' failed: {error!r}.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        names = [n for n in vars(module) if not n.startswith("_")]
        origin = f" of {module.__file__}" if getattr(module, "__file__", None) else ""
        raise FedsimError(
            f"module '{module_name}'{origin} has no '{attribute}'.{did_you_mean(attribute, names)}"
        ) from error
