"""Decorators that register a class or function as a method."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Any, Required, TypedDict, Unpack, cast, get_args

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import KINDS_OF_COMPONENTS, Component, Hook
from fedsim.core.metric import Metric
from fedsim.core.registry.index import entry_of
from fedsim.core.registry.method import METHODS, F, Fidelity, Kind, Method, Step, Tier, find_method
from fedsim.core.types import Config


class About(TypedDict, total=False):
    """Arguments of a method's decorator.

    Attributes:
        summary: description in a line.
        tier: purpose of the method; default core.
        paper: arXiv id or citation of the method itself.
        fidelity: relation of the method to its paper.
        deviates: every deviation of a variant or an inspired method from its paper, in a sentence.
        paper_steps: the paper's steps, each with its place in the code; empty for a step that is not built.
        extra: name of the required optional dependencies.
        related: arXiv id or citation of the method's basis.
        aliases: further names, e.g. names in papers.
    """

    summary: Required[str]
    tier: Tier
    paper: str
    fidelity: Fidelity
    deviates: str
    paper_steps: Sequence[Step]
    extra: str | None
    related: str
    aliases: Sequence[str]


def attack(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register an attack: a final subclass of `fedsim.core.hooks.Attack`, or of a question's base class."""
    return _register("attack", name, None, **about)


def distance(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a distance of gradients: a final subclass of `attacks.core.matching.terms.Distance`."""
    return _register("distance", name, None, **about)


def prior(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a prior on inputs: a final subclass of `attacks.core.matching.terms.Prior`."""
    return _register("prior", name, None, **about)


def attention(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a kind of attention: a final subclass of `attacks.core.attention.Attention`."""
    return _register("attention", name, None, **about)


def defense(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a defense: a final subclass of `fedsim.core.hooks.Defense`, or of a question's base class."""
    return _register("defense", name, None, **about)


def component(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a component: a final subclass of one of `fedsim.core.hooks.KINDS_OF_COMPONENTS`.

    Its hook is that of the first of these among its base classes.

    Raises:
        FedsimError: no base class is one of them.
    """

    def decorate(make: F) -> F:
        return _register("component", name, _hook_of(name, make), **about)(make)

    return decorate


def aggregator(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register an aggregator: a final subclass of `fedsim.core.hooks.Aggregator`."""
    return _register("aggregator", name, None, **about)


def question(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a question: a final subclass of `fedsim.questions.base.Question`, named like its scenario table."""
    return _register("question", name, None, **about)


def metric(
    name: str, *, title: str, summary: str, paper: str = "", related: str = "", **declared: Any
) -> Callable[[F], F]:
    """Register a metric by a decorator of the function that computes it.

    Args:
        name: name of the metric in scores and records.
        title: name for reports.
        summary: description in a sentence.
        paper: arXiv id or citation of the metric itself.
        related: arXiv id or citation of its basis.
        declared: further fields of `fedsim.core.metric.Metric`.
    """
    declared_metric = Metric(name=name, title=title, meaning=summary, **declared)

    def decorate(make: F) -> F:
        _check_names("metric", name, (), make)
        METHODS["metric", name] = Method(
            kind="metric",
            name=name,
            module=make.__module__,
            summary=summary,
            paper=paper,
            related=related,
            make=make,
            config=Config,
            declares=declared_metric,
        )
        return make

    return decorate


def task(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a task: a final subclass of `fedsim.core.hooks.Task`."""
    return _register("task", name, None, **about)


def dataset(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a data set: ``function(config) -> Dataset``."""
    return _register("dataset", name, None, **about)


def model(name: str, **about: Unpack[About]) -> Callable[[F], F]:
    """Register a model family: ``function(config, spec) -> nn.Module``."""
    return _register("model", name, None, **about)


def _register(
    kind: Kind,
    name: str,
    hook: Hook | None,
    *,
    summary: str,
    tier: Tier = "core",
    paper: str = "",
    fidelity: Fidelity | None = None,
    deviates: str = "",
    paper_steps: Sequence[Step] = (),
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    def decorate(make: F) -> F:
        _check_names(kind, name, aliases, make)
        METHODS[kind, name] = Method(
            kind=kind,
            name=name,
            module=make.__module__,
            summary=summary,
            tier=tier,
            paper=paper,
            fidelity=fidelity,
            deviates=deviates,
            paper_steps=tuple(paper_steps),
            extra=extra,
            hook=hook,
            related=related,
            aliases=tuple(aliases),
            make=make,
            config=_config_of(make),
        )
        return make

    return decorate


def _check_names(kind: Kind, name: str, aliases: Sequence[str], make: Callable[..., Any]) -> None:
    for spelling in (name, *aliases):
        known = entry_of(kind, spelling) or find_method(kind, spelling)
        if known is not None and (known.module, known.name) != (make.__module__, name):
            raise FedsimError(
                f"two {kind}s are called '{spelling}': {known.module} and {make.__module__}. Rename either."
            )


def _hook_of(name: str, make: Callable[..., Any]) -> Hook:
    """Return the hook of the first base class with a hook."""
    for base in make.__mro__ if isinstance(make, type) else ():
        if base in KINDS_OF_COMPONENTS:
            return cast("type[Component[Any]]", base).hook
    bases = " and ".join(base.__name__ for base in getattr(make, "__bases__", ())) or "no class"
    raise FedsimError(
        f"fedsim has no hook for component '{name}' ({make.__module__}), which derives from "
        f"{bases}. Derive it from a class of fedsim.core.hooks: "
        f"{', '.join(kind.__name__ for kind in KINDS_OF_COMPONENTS)}."
    )


def _config_of(make: Callable[..., Any]) -> type[Config]:
    """Return the config class: the type argument of a class's base, or a function's first such annotation."""
    if isinstance(make, type):
        candidates = [arg for base in getattr(make, "__orig_bases__", ()) for arg in get_args(base)]
    else:
        candidates = list(typing.get_type_hints(make).values())
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Config):
            return candidate
    raise TypeError(f"{make.__module__}.{make.__qualname__} does not name its config class")
