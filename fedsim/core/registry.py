"""Methods are discovered, never listed: a file with a decorator in the right folder is enough.

A method is a class or function with a pydantic config. Third-party packages add theirs by an entry
point in the group ``fedsim.attacks``, ``fedsim.defenses``, ``fedsim.components``, ``fedsim.aggregators``,
``fedsim.memberships``, ``fedsim.metrics``, ``fedsim.tasks``, ``fedsim.datasets`` or ``fedsim.models`` that names the
module to import.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import typing
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, cast, get_args

from fedsim.core.errors import FedsimError, describe_exception, nearest
from fedsim.core.hooks import KINDS_OF_COMPONENTS, Component, Hook, ModelComponent
from fedsim.core.metric import Metric
from fedsim.core.types import Config

Kind = Literal["attack", "defense", "component", "aggregator", "membership", "metric", "task", "dataset", "model"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_FOLDERS: dict[Kind, str] = {
    "attack": "attacks",
    "defense": "defenses",
    "component": "fedsim.components",
    "aggregator": "fedsim.aggregators",
    "membership": "attacks.membership",
    "metric": "fedsim.metrics",
    "task": "fedsim.tasks",
    "dataset": "fedsim.data",
    "model": "fedsim.models",
}

_HOME = Path(__file__).resolve().parents[2]
_MARKS = (b"fedsim.core.registry", b"fedsim.registry", b"from fedsim.core import registry")
_KINDS_OF_MODEL = tuple(kind for kind in KINDS_OF_COMPONENTS if issubclass(kind, ModelComponent))

F = TypeVar("F", bound=Callable[..., Any])


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

    @property
    def doc(self) -> str:
        """The docstring of the file the method lives in, or of the method itself."""
        return (sys.modules[self.module].__doc__ or self.make.__doc__ or "").strip()


_methods: dict[tuple[Kind, str], Method] = {}
_marked: list[Callable[..., Any]] = []


def _register(
    kind: Kind,
    name: str,
    summary: str,
    paper: str,
    extra: str | None,
    hook: Hook | None,
    related: str,
    aliases: Sequence[str],
) -> Callable[[F], F]:
    def decorate(make: F) -> F:
        _check_names(kind, name, aliases, make)
        _methods[kind, name] = Method(
            kind, name, summary, paper, extra, hook, make, _config_of(make), make.__module__, related, tuple(aliases)
        )
        return make

    return decorate


def _check_names(kind: Kind, name: str, aliases: Sequence[str], make: Callable[..., Any]) -> None:
    for own in (name, *aliases):
        known = _methods.get((kind, own)) or _by_alias(kind, own)
        if known is not None and (known.module, known.name) != (make.__module__, name):
            raise FedsimError(f"two {kind}s are called '{own}': {known.module} and {make.__module__}. Rename one.")


def _by_alias(kind: Kind, name: str) -> Method | None:
    return next((own for (k, _), own in _methods.items() if k == kind and name in own.aliases), None)


def attack(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register an attack: a final subclass of `fedsim.core.hooks.Attack`."""
    return _register("attack", name, summary, paper, extra, None, related, aliases)


def defense(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a defense: a final subclass of `fedsim.core.hooks.Defense`."""
    return _register("defense", name, summary, paper, extra, None, related, aliases)


def component(
    name: str,
    *,
    hook: str | None = None,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a component: a final subclass of one of `fedsim.core.hooks.KINDS_OF_COMPONENTS`.

    Its hook is that of the first of these among its base classes. To say it here as well, as was necessary before,
    works for one version more.

    Raises:
        FedsimError: nothing runs its base class, or `hook` says otherwise.
    """

    def decorate(make: F) -> F:
        own = _hook_of(name, make, hook)
        return _register("component", name, summary, paper, extra, own, related, aliases)(make)

    return decorate


def aggregator(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register an aggregator: a final subclass of `fedsim.core.hooks.Aggregator`."""
    return _register("aggregator", name, summary, paper, extra, None, related, aliases)


def membership(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a membership attack: a final subclass of `fedsim.core.hooks.MembershipAttack`."""
    return _register("membership", name, summary, paper, extra, None, related, aliases)


def metric(
    name: str, *, title: str, summary: str, paper: str = "", related: str = "", **declared: Any
) -> Callable[[F], F]:
    """Register a metric, above the function that takes it.

    Args:
        name: under which scorers give it and records hold it.
        title: for people.
        summary: what it is, in a sentence.
        paper: arXiv id or citation of the metric itself.
        related: arXiv id or citation of what it builds on.
        declared: what else `fedsim.core.metric.Metric` says of it.
    """
    own = Metric(name=name, title=title, meaning=summary, **declared)

    def decorate(make: F) -> F:
        _check_names("metric", name, (), make)
        _methods["metric", name] = Method(
            "metric", name, summary, paper, None, None, make, Config, make.__module__, related, declares=own
        )
        return make

    return decorate


def task(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a task: a final subclass of `fedsim.core.hooks.Task`."""
    return _register("task", name, summary, paper, extra, None, related, aliases)


def dataset(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a data set: ``function(config) -> Dataset``."""
    return _register("dataset", name, summary, paper, extra, None, related, aliases)


def model(
    name: str,
    *,
    summary: str,
    paper: str = "",
    extra: str | None = None,
    related: str = "",
    aliases: Sequence[str] = (),
) -> Callable[[F], F]:
    """Register a model family: ``function(config, spec) -> nn.Module``."""
    return _register("model", name, summary, paper, extra, None, related, aliases)


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


def methods(kind: Kind) -> dict[str, Method]:
    """Return every method of a kind by name, built-in ones and those of installed packages, sorted."""
    _discover(kind)
    return {name: method for (k, name), method in sorted(_methods.items()) if k == kind}


def get(kind: Kind, name: str) -> Method:
    """Return one method, by its name or an alias.

    ``package.module:function`` names a data set or model of the user's own.

    Raises:
        FedsimError: no such method; the message names the nearest one.
    """
    if ":" in name and kind in ("dataset", "model"):
        return _foreign(kind, name)
    known = methods(kind)
    found = known.get(name) or _by_alias(kind, name)
    if found is None:
        names = (own for method in known.values() for own in (method.name, *method.aliases))
        raise FedsimError(f"there is no {kind} '{name}'.{nearest(name, names)}")
    return found


def every_metric() -> dict[str, Metric]:
    """Return what every metric declares, by name: fedsim's own first, file by file, as they stand there."""
    _discover("metric")
    found = [method for (kind, _), method in _methods.items() if kind == "metric"]
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


def find(name: str) -> list[Method]:
    """Return the methods of any kind with this name or alias (a name may be used by two kinds).

    Raises:
        FedsimError: no kind has it.
    """
    everything = [method for kind in KINDS for method in methods(kind).values()]
    found = [method for method in everything if name in (method.name, *method.aliases)]
    if not found:
        names = {own for method in everything for own in (method.name, *method.aliases)}
        raise FedsimError(f"there is no method '{name}'.{nearest(name, names)}")
    return found


@contextmanager
def temporary() -> Generator[None]:
    """Forget afterwards what was registered inside the block, for a test that adds a method of its own."""
    for kind in KINDS:  # what is first discovered inside would be forgotten with the rest
        _discover(kind)
    before = dict(_methods)
    try:
        yield
    finally:
        _methods.clear()
        _methods.update(before)


class _Own(MetaPathFinder):
    """Finds fedsim's own folders of methods beside fedsim, whatever else has such a name.

    Folders of that name elsewhere on the search path, as one in the working folder, add what ours does not have.
    """

    names = frozenset(folder for folder in _FOLDERS.values() if not folder.startswith("fedsim."))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, [str(_HOME)] if path is None else path)
        if spec is not None and spec.submodule_search_locations is not None:
            every = pkgutil.extend_path(list(spec.submodule_search_locations), fullname)
            spec.submodule_search_locations = list(dict.fromkeys(every))
        return spec


sys.meta_path.insert(0, _Own())


@cache
def _discover(kind: Kind) -> None:
    package = importlib.import_module(_FOLDERS[kind])
    ours, *others = package.__path__
    if not Path(ours).resolve().is_relative_to(_HOME):
        raise FedsimError(
            f"'{package.__name__}' was imported from {ours} before fedsim, which has a package of this name. "
            "Import fedsim first, or rename the other one."
        )
    for module in _modules(package.__name__, ours):
        importlib.import_module(module)
    for folder in others:
        if not _is_of_a_copy(package.__name__, Path(folder)):
            _add(package.__name__, Path(folder))
    for point in entry_points(group=f"fedsim.{kind}s"):
        try:
            point.load()
        except Exception as error:
            raise FedsimError(
                f"the {kind} '{point.name}' of package '{point.dist.name if point.dist else point.value}' "
                f"cannot be imported: {error!r}. Repair or uninstall that package."
            ) from error


def _modules(package: str, folder: str) -> Iterator[str]:
    """Yield the modules below a package's folder; those at or below a name with an underscore are parts."""
    for info in pkgutil.walk_packages([folder], prefix=f"{package}."):
        below = info.name.removeprefix(f"{package}.").split(".")
        if not any(part.startswith("_") for part in below):
            yield info.name


def _is_of_a_copy(package: str, folder: Path) -> bool:
    """Tell whether a folder belongs to another copy of fedsim, as a checkout beside an installed one."""
    root = folder.resolve().parents[package.count(".")]
    return (root / "fedsim" / "core" / "registry.py").exists()


def _add(package: str, folder: Path) -> None:
    """Import the methods in a folder that is not fedsim's: files that name the registry. Others may do anything."""
    for path in sorted(folder.glob("*.py")):
        if path.stem.startswith("_") or not path.stem.isidentifier() or not _is_marked(path):
            continue
        try:
            module = importlib.import_module(f"{package}.{path.stem}")
        except Exception as error:
            raise FedsimError(
                f"{path} cannot be imported: {describe_exception(error)}. Repair it, or move it elsewhere."
            ) from error
        if module.__file__ is None or not Path(module.__file__).samefile(path):
            raise FedsimError(f"{path} has the name of fedsim's own '{package}.{path.stem}'. Rename the file.")


def _is_marked(path: Path) -> bool:
    content = path.read_bytes()
    return any(mark in content for mark in _MARKS)


def _hook_of(name: str, make: Callable[..., Any], stated: str | None) -> Hook:
    """The hook of the first base class that something runs; `stated` is what the decorator says, if anything."""
    ancestors = make.__mro__ if isinstance(make, type) else ()
    base: type[Component[Any]] | None = next(
        (kind for own in ancestors for kind in KINDS_OF_COMPONENTS if kind is own), None
    )
    if base is None and ModelComponent in ancestors:
        base = next((kind for kind in _KINDS_OF_MODEL if kind.hook == stated), None)
    if base is None:
        bases = " and ".join(own.__name__ for own in getattr(make, "__bases__", ())) or "no class"
        raise FedsimError(
            f"nothing runs the component '{name}' ({make.__module__}), which derives from {bases}. Derive it from one "
            f"of these of fedsim.core.hooks: {', '.join(kind.__name__ for kind in KINDS_OF_COMPONENTS)}."
        )
    hook = base.hook
    if stated is not None and stated != hook:
        raise FedsimError(
            f"the component '{name}' ({make.__module__}) says hook=\"{stated}\", but derives from {base.__name__}, "
            f"whose hook is {hook}. Leave hook= out, or derive it from another base class first."
        )
    if stated is not None:
        warnings.warn(
            f"component '{name}': leave hook=\"{stated}\" out and derive it from {base.__name__}, which says the hook. "
            "The next version does not take hook= any more.",
            DeprecationWarning,
            stacklevel=3,
        )
    return hook


def _config_of(make: Callable[..., Any]) -> type[Config]:
    """The config class: the type argument of a class's base, or the annotation of a function's first parameter."""
    if isinstance(make, type):
        candidates = [arg for base in getattr(make, "__orig_bases__", ()) for arg in get_args(base)]
    else:
        candidates = list(typing.get_type_hints(make).values())
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Config):
            return candidate
    raise TypeError(f"{make.__module__}.{make.__qualname__} does not name its config class")


def _import_callable(name: str) -> Any:
    """Return what ``package.module:function`` names."""
    module_name, _, attribute = name.partition(":")
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
        raise FedsimError(f"module '{module_name}' has no '{attribute}'.{nearest(attribute, names)}") from error


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
