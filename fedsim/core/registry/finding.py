"""Methods by name: those that were discovered, and a user's own functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast

from fedsim.core import process
from fedsim.core.errors import FedsimError, describe_exception, nearest
from fedsim.core.metric import Metric
from fedsim.core.registry.discovery import discover
from fedsim.core.registry.method import KINDS, METHODS, F, Kind, Method, OpenConfig, by_alias

_SPOKEN: dict[Kind, str] = {
    "attribute": "attack on attributes",
    "membership": "membership attack",
    "trace": "attack on traces",
    "dataset": "data set",
}
_marked: list[Callable[..., Any]] = []


def methods(kind: Kind) -> dict[str, Method]:
    """Return every method of a kind by name, built-in ones and those of installed packages, sorted."""
    discover(kind)
    if kind == "metric":  # a question may declare the figures that it gives
        discover("question")
    return {name: method for (k, name), method in sorted(METHODS.items()) if k == kind}


def get(kind: Kind, name: str) -> Method:
    """Return one method, by its name or an alias.

    ``package.module:function`` names a data set or model of the user's own.

    Raises:
        FedsimError: no such method; the message names the nearest one.
    """
    if ":" in name and kind in ("dataset", "model"):
        return _foreign(kind, name)
    known = methods(kind)
    found = known.get(name) or by_alias(kind, name)
    if found is None:
        names = (own for method in known.values() for own in (method.name, *method.aliases))
        raise FedsimError(f"there is no {_SPOKEN.get(kind, kind)} '{name}'.{_hint(name, names)}")
    return found


def find(name: str) -> list[Method]:
    """Return the methods of any kind with this name or alias (a name may be used by two kinds).

    Tables write names as people do: ``DIA`` is ``dia``, and ``label shares`` is ``label-shares``.

    Raises:
        FedsimError: no kind has it.
    """
    everything = [method for kind in KINDS for method in methods(kind).values()]
    wanted = "-".join(name.casefold().split())
    found = [method for method in everything if wanted in (method.name, *method.aliases)]
    if not found:
        names = {own for method in everything for own in (method.name, *method.aliases)}
        raise FedsimError(f"there is no method '{name}'.{_hint(wanted, names)}")
    return found


def _hint(name: str, names: Iterable[str]) -> str:
    """Return what somebody may have meant: names that begin so, else the nearest one, else where all stand."""
    known = list(names)
    begun = sorted(own for own in known if own.startswith(f"{name}-"))
    if begun:
        return f" Did you mean {' or '.join(map(repr, begun))}?"
    return nearest(name, known) or " `fedsim list` names all."


def every_metric() -> dict[str, Metric]:
    """Return what every metric declares, by name: fedsim's own first, file by file, as they stand there."""
    discover("metric")
    found = [method for (kind, _), method in METHODS.items() if kind == "metric"]
    found.sort(key=lambda method: (not method.module.startswith("fedsim."), method.module))
    return {method.name: method.declares for method in found if method.declares is not None}


def declared(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return what these metrics declare, each once.

    Raises:
        FedsimError: somebody gives a figure that is no metric; the message names the nearest one.
    """
    known = every_metric()
    wanted = dict.fromkeys(names)
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise FedsimError(
            f"there is no metric '{strangers[0]}'.{nearest(strangers[0], known)} "
            "Declare it with @metric of fedsim.core.registry."
        )
    return tuple(known[name] for name in wanted)


@contextmanager
def temporary() -> Generator[None]:
    """Forget afterwards what was registered inside the block, for a test that adds a method of its own."""
    for kind in KINDS:  # what is first discovered inside would be forgotten with the rest
        discover(kind)
    before = dict(METHODS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(before)


def for_scenarios(function: F) -> F:
    """Mark a function of your own: scenario files may name it. They may name no other one, unless they are trusted."""
    _marked.append(function)
    return function


def check_marked(name: str) -> None:
    """Refuse ``package.module:function`` unless the function is marked with `for_scenarios`.

    Raises:
        FedsimError: it is not, or cannot be imported.
    """
    function = _import_callable(name)
    if not any(function is own for own in _marked):
        raise FedsimError(
            f"the scenario names the function '{name}', which is not marked for that. If it is yours, write "
            "@for_scenarios above it (from fedsim.core.registry import for_scenarios); --trust lets a scenario name "
            "any function, which may do whatever you may."
        )


def _import_callable(name: str) -> Any:
    """Return what ``package.module:function`` names."""
    module_name, _, attribute = name.partition(":")
    process.find_own_modules(module_name)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise FedsimError(
            f"cannot import '{module_name}' for '{name}': {error}. Run from the folder that holds it, or install it."
        ) from error
    except Exception as error:
        raise FedsimError(f"importing '{module_name}' for '{name}' failed: {error!r}.") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        names = [n for n in vars(module) if not n.startswith("_")]
        where = f" of {module.__file__}" if getattr(module, "__file__", None) else ""
        raise FedsimError(f"module '{module_name}'{where} has no '{attribute}'.{nearest(attribute, names)}") from error


def _foreign(kind: Kind, name: str) -> Method:
    function = _import_callable(name)

    def make(config: OpenConfig, *context: Any) -> Any:
        try:
            return cast("Callable[..., Any]", function)(*context, **(config.model_extra or {}))
        except FedsimError:
            raise
        except Exception as error:
            raise FedsimError(f"{kind} '{name}' failed: {describe_exception(error)}.") from error

    return Method(kind, name, "a function of your own", "", None, None, make, OpenConfig, name.partition(":")[0])
