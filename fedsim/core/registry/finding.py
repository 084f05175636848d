"""Lookup of methods by name. A method is imported when it is named; names and summaries need no import of torch."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.registry.discovery import add_named, add_others, discover, import_own
from fedsim.core.registry.index import FOLDERS, entries_of, entry_of, metrics_beside_questions
from fedsim.core.registry.method import KINDS, METHODS, Entry, Kind, Method, find_method

if TYPE_CHECKING:
    from torch import nn

    from fedsim.core.hooks import Task
    from fedsim.core.metric import Metric
    from fedsim.core.types import Dataset

T = TypeVar("T")

_NOT_DECLARED = ("summary", "paper", "related")  # decorator arguments that are no fields of `Metric`
_SPOKEN: dict[Kind, str] = {"dataset": "data set"}


@overload
def methods(kind: Kind) -> dict[str, Method[Any]]: ...


@overload
def methods(kind: Kind, base: type[T]) -> dict[str, Method[T]]: ...


def methods(kind: Kind, base: type[Any] = object) -> dict[str, Method[Any]]:
    """Import every method of a kind, and return the methods by name, sorted, including third-party methods.

    Args:
        kind: kind of the methods.
        base: base class of the returned methods, where a kind has several base classes.
    """
    for part in _parts(kind):
        discover(part)
    found = _registered_of(kind)
    return found if base is object else {name: m for name, m in found.items() if m.derived_from(base) is not None}


def entries(kind: Kind) -> dict[str, Entry]:
    """Return the entries of every method of a kind, by name, sorted, without importing fedsim's own methods."""
    for part in _parts(kind):
        add_others(part)
    return dict(sorted({**entries_of(kind), **_registered_of(kind)}.items()))


@overload
def get(kind: Literal["dataset"], name: str) -> Method[Dataset]: ...


@overload
def get(kind: Literal["model"], name: str) -> Method[nn.Module]: ...


@overload
def get(kind: Literal["task"], name: str) -> Method[Task[Any]]: ...


@overload
def get(kind: Kind, name: str, base: type[T]) -> Method[T]: ...


@overload
def get(kind: Kind, name: str) -> Method[Any]: ...


def get(kind: Kind, name: str, base: type[Any] = object) -> Method[Any]:
    """Import a method by its name or alias, and return it.

    Args:
        kind: kind of the method.
        name: its name; ``package.module:function`` names a user function for a data set or model.
        base: required base class of the method, where a kind has several base classes.

    Raises:
        FedsimError: the method is unknown, or derives from another base class; the message gives the nearest name.
    """
    if ":" in name and kind in ("dataset", "model"):
        from fedsim.core.registry.user_functions import method_of  # noqa: PLC0415 - a list of names needs no torch

        return method_of(kind, name)
    _import(kind, name)
    method = find_method(kind, name)
    if method is None:
        names = (name for entry in entries(kind).values() for name in entry.names)
        raise FedsimError(f"there is no {_SPOKEN.get(kind, kind)} '{name}'.{_hint(name, names)}")
    if base is not object and method.derived_from(base) is None:
        names = methods(kind, base)
        raise FedsimError(f"{kind} '{name}' has another purpose. Expected any of: {', '.join(names) or 'none'}.")
    return method


def find_entries(name: str) -> list[Entry]:
    """Return the entries of all kinds with this name or alias (two kinds may use the same name).

    Spelling is normalised: ``DIA`` is ``dia``, and ``label shares`` is ``label-shares``.

    Raises:
        FedsimError: no kind has a method of this name.
    """
    wanted = "-".join(name.casefold().split())
    called = [entry for kind in KINDS if (entry := _entry_named(kind, wanted)) is not None]
    if not called:
        names = {known for kind in KINDS for entry in entries(kind).values() for known in entry.names}
        raise FedsimError(f"there is no method '{name}'.{_hint(wanted, names)}")
    return called


def _entry_named(kind: Kind, name: str) -> Entry | None:
    """Return the entry of a name or alias; of fedsim's files only those that contain the name are parsed."""
    for part in _parts(kind):
        add_others(part)
    return find_method(kind, name) or entry_of(kind, name)


def _parts(kind: Kind) -> tuple[Kind, ...]:
    """Return the kinds whose folders contain methods of a kind: files of questions may also declare metrics."""
    return ("metric", "question") if kind == "metric" else (kind,)


def _registered_of(kind: Kind) -> dict[str, Method[Any]]:
    return {name: method for (k, name), method in sorted(METHODS.items()) if k == kind}


def _import(kind: Kind, name: str) -> None:
    """Import the methods of this name, if any."""
    entry = entry_of(kind, name)
    if entry is not None:
        import_own(entry.module)
    for part in _parts(kind):
        add_named(part, name)
    if find_method(kind, name) is None:
        for part in _parts(kind):
            add_others(part)


def _hint(name: str, names: Iterable[str]) -> str:
    """Suggest names with this prefix, else the closest name, else `fedsim list`."""
    known = list(names)
    begun = sorted(candidate for candidate in known if candidate.startswith(f"{name}-"))
    if begun:
        return f" Did you mean {' or '.join(map(repr, begun))}?"
    return did_you_mean(name, known) or " `fedsim list` names all."


def every_metric() -> dict[str, Metric]:
    """Return all metric declarations by name: of metric files, of questions and tasks, then of packages.

    The result does not depend on the imported questions and tasks, and the function imports none of fedsim's own.
    """
    discover("metric")
    for kind in ("question", "task"):
        add_others(kind)
    known = [method for (kind, _), method in METHODS.items() if kind == "metric"]
    known.sort(key=lambda method: (not method.module.startswith("fedsim."), method.module))
    others = _declared_beside_questions()
    declared = {method.name: method.declares for method in known if method.declares is not None}
    own_names = {method.name for method in known if method.module.startswith(FOLDERS["metric"])}
    return {
        **{name: metric for name, metric in declared.items() if name in own_names},
        **others,
        **{name: metric for name, metric in declared.items() if name not in own_names and name not in others},
    }


@cache
def _declared_beside_questions() -> dict[str, Metric]:
    from fedsim.core.metric import Metric  # noqa: PLC0415 - a list of names needs no metrics

    return {
        name: Metric(
            name=name,
            meaning=description["summary"],
            **{k: v for k, v in description.items() if k not in _NOT_DECLARED},
        )
        for name, description in metrics_beside_questions().items()
    }


def find_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """Return the declarations of these metrics, without duplicates.

    Raises:
        FedsimError: a name is no metric; the message gives the nearest one.
    """
    known = every_metric()
    wanted = dict.fromkeys(names)
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise FedsimError(
            f"unknown metric '{strangers[0]}'.{did_you_mean(strangers[0], known)} Declare it with "
            "@metric of fedsim.core.registry."
        )
    return tuple(known[name] for name in wanted)


@contextmanager
def temporary() -> Generator[None]:
    """Restore the registry after the block, for tests that register methods."""
    for kind in KINDS:  # import all first: a first import inside the block would be undone too
        discover(kind)
    before = dict(METHODS)
    try:
        yield
    finally:
        METHODS.clear()
        METHODS.update(before)
