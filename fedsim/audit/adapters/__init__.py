"""Adapters: each converts a kind of object that engineers have into the subject of an audit.

A kind is a file in this folder with a class below `@adapter`. Another package adds a kind by an entry point in the
group ``fedsim.adapters`` that names the module to import.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar, cast

from torch import nn

from fedsim.audit.foreign import reason
from fedsim.audit.record import UNDERSTOOD
from fedsim.audit.subject import Subject
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.registry.discovery import modules_below

GROUP = "fedsim.adapters"
_PARTS = 3  # model, loss, loader


class SubjectAdapter(ABC):
    """Base class of adapters; each subclass accepts a single kind of object.

    Attributes:
        input_description: the accepted objects, in a few words.
        client: the given object.
        name: name of the target, for errors.
    """

    input_description: ClassVar[str]

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    @classmethod
    @abstractmethod
    def matches(cls, client: Any) -> bool:
        """Return whether an object is, or was meant to be, of this kind; must not import a heavy library."""

    @abstractmethod
    def subject(self) -> Subject:
        """Return the subject: model, loss, batches and sent parameters.

        Raises:
            FedsimError: a part is missing or does not fit; the message states the fix.
        """

    @abstractmethod
    def input_summary(self) -> str:
        """Return a line, without full stop, on the given object and its sent parameters; called after `subject`."""


AdapterT = TypeVar("AdapterT", bound=type[SubjectAdapter])
_ADAPTERS: list[type[SubjectAdapter]] = []


def adapter(kind: AdapterT) -> AdapterT:
    """Register an adapter class."""
    _ADAPTERS.append(kind)
    return kind


def adapters() -> tuple[type[SubjectAdapter], ...]:
    """Return every adapter: fedsim's, then those of installed packages.

    Raises:
        FedsimError: an adapter of another package cannot be imported.
    """
    _discover()
    return tuple(_ADAPTERS)


def supported_targets() -> str:
    """Return a sentence that lists the objects accepted by all adapters."""
    return f"An audit also accepts {'; '.join(kind.input_description for kind in adapters())}."


def adapter_of(client: Any) -> type[SubjectAdapter] | None:
    """Return the adapter that recognises an object; None if no adapter does."""
    return next((kind for kind in adapters() if kind.matches(client)), None)


def make_subject(kind: type[SubjectAdapter], client: Any, name: str) -> Subject:
    """Return the subject of an object, with a note that describes the object.

    Raises:
        FedsimError: a part is missing or does not fit; the message states the fix.
        MemoryError: memory is exhausted.
    """
    adapter = kind(client, name)
    try:
        with seeding.isolate_randomness(0):
            subject = adapter.subject()
    except FedsimError:
        raise
    except Exception as error:
        why = " ".join(reason(error).split())
        raise FedsimError(f"'{name}' was taken for {kind.input_description}, but {why}.") from error
    subject = replace(subject, notes=(f"{UNDERSTOOD}{adapter.input_summary()}.", *subject.notes))
    inner = adapter_of(subject)  # for example a peft model in a Trainer
    return subject if inner in (None, kind) else make_subject(inner, subject, name)


def as_sequence(value: Any) -> tuple[Any, ...]:
    """Return the items of a tuple or list, or the object itself as the only item."""
    return tuple(cast("tuple[Any, ...]", value)) if isinstance(value, tuple | list) else (value,)


def type_names(parts: Iterable[Any]) -> str:
    """Return the type names of the given parts as text."""
    return ", ".join(type(part).__name__ for part in parts) or "nothing"


def optimizer_called(name: str) -> Literal["adam", "sgd"]:
    """Return the simulated optimizer for an optimizer of this name."""
    return "adam" if "adam" in name.lower() else "sgd"


def is_instance_by_name(value: Any, name: str, *packages: str) -> bool:
    """Return whether an object's class has this name in one of these packages, without importing them."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] in packages for kind in type(value).__mro__)


def unwrap_model(model: Any) -> nn.Module:
    """Return a copy of a model wrapped by Opacus, without its hooks; the original keeps its hooks."""
    from fedsim.core.foreign.opacus import inner_module  # noqa: PLC0415 - slow import (seconds)

    hooked = copy.deepcopy(model)
    hooked.cleanup()
    return inner_module(hooked)


def with_model(client: Any, name: str) -> Subject:
    """Return a subject as it is, or a tuple (model, loss, loader) as a subject.

    Raises:
        FedsimError: the object is neither.
    """
    if isinstance(client, Subject):
        return client
    parts = as_sequence(client)
    if len(parts) == _PARTS:
        return Subject(*parts)
    raise FedsimError(f"'{name}' gives {type_names(parts)}, expected (model, loss, loader). Add the missing parts.")


def model_of(client: Any) -> nn.Module | None:
    """Return the model of a subject or of a tuple that begins with it, or the object itself if it is a module."""
    first = client.model if isinstance(client, Subject) else next(iter(as_sequence(client)), None)
    return first if isinstance(first, nn.Module) else None


def tensors_are(count: int, place: str = "") -> str:
    """Return the number of tensors in words, up to the verb."""
    return f"{count} tensor{'s' if count != 1 else ''}{place} {'are' if count != 1 else 'is'}"


@cache
def _discover() -> None:
    for module in modules_below(__name__, __path__[0]):
        importlib.import_module(module)
    for point in _points():
        try:
            point.load()
        except Exception as error:
            raise FedsimError(
                f"the adapter '{point.name}' of another package cannot be imported: {error!r}. Repair or uninstall "
                "that package."
            ) from error


def _points() -> Iterator[Any]:
    yield from entry_points(group=GROUP)
