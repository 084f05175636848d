"""Entries of methods, and the table of registered methods. Importing this module does not import torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from fedsim.core.hooks import Hook
    from fedsim.core.metric import Metric
    from fedsim.core.settings import Config

TieredKind = Literal[
    "attack",
    "defense",
    "component",
    "aggregator",
]
"""Kinds whose methods state a tier; methods of other kinds are core."""

Kind = Literal[
    TieredKind,
    "distance",
    "prior",
    "attention",
    "question",
    "metric",
    "task",
    "dataset",
    "model",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TIERED: tuple[TieredKind, ...] = get_args(TieredKind)

Fidelity = Literal["reproduction", "variant", "inspired"]
"""Relation of a method to its paper.

reproduction: the paper's algorithm, equations and settings; additions change nothing where the paper applies.
variant: the paper's idea, with a step or settings changed on purpose.
inspired: only the abstract or a short description was read, or only the goal is shared.
"""

Tier = Literal["core", "baseline", "research"]
"""Purpose of a method.

core: what a defender runs or uses; audits and the attack `auto` try it.
baseline: a published method for comparison; audits and `auto` never try it.
research: works under narrow conditions; audits and `auto` try it where these conditions hold.
"""

_PHRASES: dict[Fidelity, str] = {
    "reproduction": "a reproduction of",
    "variant": "a variant of",
    "inspired": "inspired by",
}
ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")
"""An arXiv id."""

Step = tuple[str, str]
"""A step of a paper: description and code.

The code is a name of the method's own file, or a full name; empty if the step is not built. The marker
``paper_step(METHOD, STEP)`` names the test that compares the step with an independent oracle.
"""

MadeT = TypeVar("MadeT")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Description of a method before its import.

    Attributes:
        kind: kind of the method.
        name: name of the method.
        module: module of the method.
        summary: description in a line.
        tier: purpose of the method.
        paper: arXiv id or citation of the method itself, empty if there is none.
        fidelity: relation of the method to its paper; None without a paper, and for metrics, tasks, data sets and
            models.
        deviates: every deviation of a variant or an inspired method from its paper, in a sentence.
        paper_steps: the paper's steps.
        extra: required optional extra of the distribution, if any.
        hook: hook of a component; None for other kinds.
        related: arXiv id or citation of what the method builds on, attacks or undoes, if it is another paper.
        aliases: further names, e.g. names in papers.
    """

    kind: Kind
    name: str
    module: str
    summary: str
    tier: Tier = "core"
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
        """Name and aliases."""
        return (self.name, *self.aliases)

    @property
    def origin(self) -> str:
        """Relation to the paper and citation, e.g. "a variant of arXiv 2104.07586: REASON"; empty without a paper."""
        cited = f"arXiv {self.paper}" if ARXIV.fullmatch(self.paper) else self.paper
        if self.fidelity is None:
            return cited
        return f"{_PHRASES[self.fidelity]} {cited}{f': {self.deviates}' if self.deviates else ''}"


@dataclass(frozen=True, kw_only=True)
class Method(Entry, Generic[MadeT]):
    """A registered method, which makes a `MadeT`.

    Attributes:
        make: class (called with its config) or function (called with its config and the context of its kind).
        config: pydantic class of its settings.
        declares: declaration of a metric; None for other kinds.
    """

    make: Callable[..., MadeT]
    config: type[Config]
    declares: Metric | None = None

    def derived_from(self, base: type[T]) -> type[T] | None:
        """Return the method's class if it derives from `base`, else None."""
        return self.make if isinstance(self.make, type) and issubclass(self.make, base) else None

    @property
    def doc(self) -> str:
        """The docstring of the method's file, or of the method itself."""
        return (sys.modules[self.module].__doc__ or self.make.__doc__ or "").strip()


METHODS: dict[tuple[Kind, str], Method[Any]] = {}
"""All registered methods."""


def find_method(kind: Kind, name: str) -> Method[Any] | None:
    """Return the method registered under a name or an alias, or None."""
    by_alias = (method for (k, _), method in METHODS.items() if k == kind and name in method.aliases)
    return METHODS.get((kind, name)) or next(by_alias, None)
