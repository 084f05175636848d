"""What is known of a method, and the table of all that were registered. Importing this waits for no torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from fedsim.core.hooks import Hook
    from fedsim.core.metric import Metric
    from fedsim.core.types import Config

Kind = Literal[
    "attack",
    "distance",
    "prior",
    "attention",
    "defense",
    "component",
    "aggregator",
    "membership",
    "attribute",
    "trace",
    "evidence_attack",
    "evidence_defense",
    "question",
    "metric",
    "task",
    "dataset",
    "model",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

Fidelity = Literal["reproduction", "variant", "inspired"]
"""What a method is to its paper.

reproduction: its algorithm, equations and settings; what it adds changes nothing where the paper applies.
variant: its idea, with a step or settings changed on purpose.
inspired: only its abstract or a short description was read, or it shares only the goal.
"""

_PHRASES: dict[Fidelity, str] = {
    "reproduction": "a reproduction of",
    "variant": "a variant of",
    "inspired": "inspired by",
}
_ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")

Step = tuple[str, str, str]
"""A step of a paper; where it is in the code, by a name of the method's own file or in full; and the test that holds it
to something that does not depend on it, by a name of the method's own test file or as ``tests/...py::test_...``."""

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a method before it is imported.

    Attributes:
        module: that imports it.
        paper: arXiv id or citation of the method itself, empty when there is none.
        fidelity: what the method is to its paper; None without a paper, and for metrics, tasks, data sets and models.
        deviates: every deviation of a variant or an inspired method from its paper, in one sentence.
        paper_steps: what the paper does, one by one.
        extra: the optional extra of the distribution that it needs, if any.
        hook: where a component plugs in; None for other kinds.
        related: arXiv id or citation of what the method builds on, attacks or undoes, where that is not its own.
        aliases: other names that find it, as those of papers.
    """

    kind: Kind
    name: str
    module: str
    summary: str
    paper: str = ""
    fidelity: Fidelity | None = None
    deviates: str = ""
    paper_steps: tuple[Step, ...] = ()
    extra: str | None = None
    hook: Hook | None = None
    related: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def origin(self) -> str:
        """Its paper and what it is to it, as "a variant of arXiv 2104.07586: REASON"; empty without a paper."""
        cited = f"arXiv {self.paper}" if _ARXIV.fullmatch(self.paper) else self.paper
        if self.fidelity is None:
            return cited
        return f"{_PHRASES[self.fidelity]} {cited}{f': {self.deviates}' if self.deviates else ''}"


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """A registered method.

    Attributes:
        make: class (called with its config) or function (called with its config and what its kind needs).
        config: the pydantic class of its settings.
        declares: what a metric is; None for other kinds.
    """

    make: Callable[..., Any]
    config: type[Config]
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


def registered(kind: Kind, name: str) -> Method | None:
    """Return the method that was registered under a name or an alias, or None."""
    by_alias = (method for (k, _), method in METHODS.items() if k == kind and name in method.aliases)
    return METHODS.get((kind, name)) or next(by_alias, None)
