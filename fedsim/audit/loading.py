"""Subject of an import target: a function, its returned value, or an object that an adapter accepts."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, cast

from torch import nn

from fedsim.audit.adapters import adapter_of, make_subject, supported_targets
from fedsim.audit.foreign import reason
from fedsim.audit.subject import Subject
from fedsim.core import process, seeding, targets
from fedsim.core.errors import FedsimError, did_you_mean

_WITH_LOSS = """  def audited():
      model, loader = make_client()
      return model, None, loader  # None: cross-entropy"""
_LINE = re.compile(r"([\w.-]+).*\bextra == ['\"]([\w-]+)['\"]")
_ALL = "dev"  # contains all other extras


def load(target: str) -> Any:
    """Return the object of ``package.module:name`` or ``folder/file.py:name``, or the path of a Flower app.

    Raises:
        FedsimError: the module cannot be imported, or has no such name.
    """
    function = targets.find(target)
    if isinstance(function, Path):
        return function
    module_name, attribute = function
    if function.file is not None:
        module_name = _reachable(function.file)
        process.find_own_modules(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        extra = extra_of(str(error.name))
        advice = (
            f"pip install 'fedsim-privacy[{extra}]'" if extra else "Run from the folder that contains it, or install it"
        )
        raise FedsimError(f"cannot import '{module_name}' for '{target}': {error}. {advice}.") from error
    except Exception as error:
        raise FedsimError(f"importing '{module_name}' for '{target}' failed: {reason(error)}.") from error
    names = [name for name in vars(sys.modules[module_name]) if not name.startswith("_")]
    if attribute not in names:
        raise FedsimError(f"module '{module_name}' has no '{attribute}'.{did_you_mean(attribute, names)}")
    return getattr(module, attribute)


def _reachable(file: Path) -> str:
    """Insert a file's folder at the front of the import path, as Python does for a script; return the module name."""
    sys.path.insert(0, str(file.resolve().parent))
    loaded = sys.modules.get(file.stem)
    if loaded is not None and getattr(loaded, "__file__", None) != str(file.resolve()):
        raise FedsimError(
            f"{file} has the name of module '{file.stem}', which is loaded already. Rename the file, or name it as "
            "package.module."
        )
    return file.stem


def load_subject(client: Any, name: str) -> Subject:
    """Return the subject of a supported object, of a subject or its tuple, or of a factory's returned value.

    Raises:
        FedsimError: the object has an unsupported type, a function raises or returns an unsupported value, or an
            adapter
            lacks a required part.
    """
    kind = adapter_of(client)
    if kind is None and callable(client) and not isinstance(client, nn.Module):
        client = call_factory(client, name)
        kind = adapter_of(client)
        return _plain(client, f"'{name}' returned") if kind is None else make_subject(kind, client, name)
    if kind is not None:
        return make_subject(kind, client, name)
    if not isinstance(client, tuple | Subject | nn.Module):
        raise FedsimError(
            f"'{name}' is of type {type(client).__name__}, expected a function without arguments. {supported_targets()}"
        )
    return _plain(client, f"'{name}' is")


def call_factory(factory: Callable[[], Any], name: str) -> Any:
    """Return the value of a function without arguments, called with isolated randomness.

    Raises:
        FedsimError: the function needs arguments, or raises.
        MemoryError: memory is exhausted.
    """
    if needed := _required_parameters(factory):
        raise FedsimError(f"'{name}' needs {', '.join(needed)}, expected a function without arguments. Give defaults.")
    try:
        with seeding.isolate_randomness(0):
            return factory()
    except Exception as error:
        raise FedsimError(f"'{name}' failed: {reason(error)}.") from error


def _plain(answer: Any, subject: str) -> Subject:
    if isinstance(answer, Subject):
        return answer
    if isinstance(answer, tuple) and len(cast("tuple[Any, ...]", answer)) == 3:  # noqa: PLR2004 - as the message says
        return Subject(*cast("tuple[Any, Any, Any]", answer))
    is_tuple = isinstance(answer, tuple)
    kind = f"{len(cast('tuple[Any, ...]', answer))} values" if is_tuple else type(answer).__name__
    hint = f" Two values lack the loss:\n{_WITH_LOSS}\n" if kind == "2 values" else " "
    raise FedsimError(
        f"{subject} {kind}, expected a tuple (model, loss, loader) or a fedsim.audit.Subject."
        f"{hint}{supported_targets()}"
    )


def _required_parameters(factory: Callable[..., Any]) -> list[str]:
    """Return the required parameters of a function; empty if the signature is unavailable."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some built-in functions
        return []
    spread = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is inspect.Parameter.empty and parameter.kind not in spread
    ]


def extra_of(package: str) -> str:
    """Return the extra that installs a package, preferably the extra of the same name; empty if none does."""
    try:
        lines = requires("fedsim-privacy") or []
    except PackageNotFoundError:
        return ""
    brought = (match.groups() for match in map(_LINE.match, lines) if match)
    extras = [extra for name, extra in brought if name == package and extra != _ALL]
    return package if package in extras else next(iter(extras), "")
