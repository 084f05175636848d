"""What is known of a registered method, and the table of all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from fedsim.core.hooks import Hook
from fedsim.core.metric import Metric
from fedsim.core.types import Config

Kind = Literal[
    "attack",
    "defense",
    "component",
    "aggregator",
    "membership",
    "attribute",
    "trace",
    "question",
    "metric",
    "task",
    "dataset",
    "model",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class OpenConfig(Config, extra="allow"):
    """Settings of a user's own function: passed on as keyword arguments, not checked here."""


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        make: class (called with its config) or function (called with its config and what its kind needs).
        config: the pydantic class of its settings.
        paper: arXiv id or citation of the method itself, empty when there is none.
        extra: the optional extra of the distribution that it needs, if any.
        hook: where a component plugs in; None for other kinds.
        related: arXiv id or citation of what the method builds on, attacks or undoes, where that is not its own.
        aliases: other names that find it, as those of papers.
        declares: what a metric is; None for other kinds.
    """

    kind: Kind
    name: str
    summary: str
    paper: str
    extra: str | None
    hook: Hook | None
    make: Callable[..., Any]
    config: type[Config]
    module: str
    related: str = ""
    aliases: tuple[str, ...] = ()
    declares: Metric | None = None

    def derived_from(self, base: type[T]) -> type[T] | None:
        """Return the method's class where it derives from `base`, or None: another class, or a function."""
        return self.make if isinstance(self.make, type) and issubclass(self.make, base) else None

    @property
    def doc(self) -> str:
        """The docstring of the file the method lives in, or of the method itself."""
        return (sys.modules[self.module].__doc__ or self.make.__doc__ or "").strip()


METHODS: dict[tuple[Kind, str], Method] = {}
"""Every method that was registered so far."""


def by_alias(kind: Kind, name: str) -> Method | None:
    """Return the method of a kind that has another name too, or None."""
    return next((own for (k, _), own in METHODS.items() if k == kind and name in own.aliases), None)
