"""A site's policy: `guard.toml`, loaded and validated."""

from __future__ import annotations

import sys
import sysconfig
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import Defense
from fedsim.core.registry import Kind, index
from fedsim.core.source import read_tables
from fedsim.core.types import Config
from fedsim.federation.mods import DefendingMod, as_mod
from fedsim.privacy.ledger import Allowance
from fedsim.scenario.reading import read_table

_LARGEST_EPSILON, _LARGEST_DELTA = 50.0, 1e-3
EXAMPLES = "num-examples"  # by which Flower's strategies weigh a reply
_TRAIN = "train"


def _from_the_file(path: Path, info: ValidationInfo) -> Path:
    return Path(info.context) / path.expanduser() if info.context else path


SitePath = Annotated[Path, AfterValidator(_from_the_file)]  # relative to the folder of the file
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class NodeTable(Config):
    """The SuperNode with the guarded messages."""

    address: str = Field(
        pattern=r"^(127\.0\.0\.1|localhost):\d+$",
        description="its Runtime API, as 127.0.0.1:19300: host and port that flower-supernode was started with",
    )
    secret: SitePath = Field(description="the file that flower-supernode has as --superexec-auth-secret-file")


class BudgetTable(Config):
    """Total privacy budget of the subject, over runs, apps and restarts."""

    epsilon: float = Field(gt=0, description=f"epsilon that the subject may spend, at most {_LARGEST_EPSILON:g}")
    delta: float = Field(gt=0, description=f"delta at which epsilon is stated, at most {_LARGEST_DELTA:g}")

    @field_validator("epsilon")
    @classmethod
    def _check_epsilon(cls, epsilon: float) -> float:
        if not epsilon <= _LARGEST_EPSILON:
            raise ValueError(
                f"{epsilon:g} gives no protection, expected at most {_LARGEST_EPSILON:g}: the "
                "odds of any fact about the subject may change by a factor of exp(epsilon), "
                f"and exp({_LARGEST_EPSILON:g}) is certainty. Set 8 or less, and more noise or "
                "fewer rounds"
            )
        return epsilon

    @field_validator("delta")
    @classmethod
    def _check_delta(cls, delta: float) -> float:
        if not delta <= _LARGEST_DELTA:
            raise ValueError(
                f"{delta:g} is too large, expected at most {_LARGEST_DELTA:g}: delta is the probability with which the "
                "epsilon need not hold, so that all data may be disclosed. Take 1e-5"
            )
        return delta

    @property
    def allowance(self) -> Allowance:
        """The same for a ledger."""
        return Allowance(self.epsilon, self.delta)


class MessagesTable(Config):
    """Which messages are answered, and how."""

    types: tuple[str, ...] = Field(
        default=(_TRAIN,), min_length=1, description="allowed message types: train, or train.ACTION"
    )
    rounds: int = Field(default=100, ge=1, description="largest number of training messages per run")
    on_app_failure: Literal["noise", "error"] = Field(
        default="noise",
        description="reply after a failure of the app: a zero update with noise, which hides the failure, or an error",
    )
    constant_time: bool = Field(
        default=False,
        description="whether replies of app runs are sent a minute and apps.seconds after the guard took the message, "
        "so that their time does not depend on the data; refusals before a run are sent at once",
    )
    metrics: dict[str, float] = Field(
        default_factory=dict,
        description="constant metrics of every reply, in addition to num-examples = 1, such as {train_loss = 0.0}",
    )

    @field_validator("types")
    @classmethod
    def _are_covered(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in types:
            if pattern.split(".")[0] != _TRAIN:
                raise ValueError(
                    f"'{pattern}' is no message of training, and defenses cover updates alone. Leave it out, and have "
                    "the server run with fraction_evaluate = 0"
                )
        return types

    @field_validator("metrics")
    @classmethod
    def _leave_examples_alone(cls, metrics: dict[str, float]) -> dict[str, float]:
        if EXAMPLES in metrics:
            raise ValueError(f"'{EXAMPLES}' is 1 for every site. Leave it out")
        return metrics


class AppsTable(Config):
    """The allowed apps, and the resources of their processes."""

    sha256: tuple[Sha256, ...] | Literal["any"] = Field(
        description='SHA-256 of each allowed app, as `sha256sum my.fab` prints it, or "any"'
    )
    seconds: float = Field(default=3600.0, gt=0, description="after which an app is ended")
    isolation: Literal["sandbox", "none"] = Field(
        default="sandbox",
        description=(
            "sandbox: no network, no other process, no file except the files below; none: all permissions of this user"
        ),
    )
    readable: tuple[SitePath, ...] = Field(default=(), description="files and folders of the site's data")
    writable: tuple[SitePath, ...] = Field(default=(), description="folders that outlive a message, as for a cache")
    log: SitePath | None = Field(
        default=None, description="file to which the guard appends the first MiB that an app prints; absent: dropped"
    )


class MandatoryDefense(Choice):
    """A defense by name, with its settings in the same table."""

    kind: ClassVar[Kind | None] = "defense"
    base: ClassVar[type[Any]] = Defense


class GuardPolicy(Config):
    """A site's rules; paths are relative to the folder of the file."""

    subject: str = Field(
        min_length=1, description="name of the data in the ledger; a single name for each set of people"
    )
    ledger: SitePath = Field(description="file of the spent budget; created if missing")
    key: SitePath = Field(description="file with the key of the ledger; it is made with it")
    node: NodeTable
    budget: BudgetTable
    apps: AppsTable
    defenses: tuple[MandatoryDefense, ...] = Field(
        min_length=1, description="defenses of every update, in order; at least one is private"
    )
    server_check: bool = Field(
        default=True, description="whether received weights that look crafted are refused before an app sees them"
    )
    messages: MessagesTable = MessagesTable()

    def mods(self) -> list[DefendingMod]:
        """Return the defenses as Flower's mods, the outermost first: the last mod changes an update first."""
        return [as_mod(choice.name, **choice.settings) for choice in reversed(self.defenses)]


def read_policy(path: Path) -> GuardPolicy:
    """Return the policy in a file.

    Raises:
        ScenarioError: it cannot be read, or does not fit; the message names file and key.
    """
    if not path.is_file():
        raise ScenarioError(f"no policy {path}. docs/guard.md has a first example.")
    source = str(path)
    policy = read_table(GuardPolicy, read_tables(path), source, context=str(path.absolute().parent))
    problems = [*_defense_problems(policy), *_place_problems(policy, path)]
    if problems:
        raise ScenarioError("\n".join(f"{source}: {problem}" for problem in problems))
    return policy


def _defense_problems(policy: GuardPolicy) -> list[str]:
    """Return the problems of the defenses, each with its key."""
    problems: list[str] = []
    private = False
    for number, choice in enumerate(policy.defenses):
        place = f"defenses.{number}"
        try:
            method = registry.get("defense", choice.name, choice.base)
        except FedsimError as error:
            problems.append(f"{place}.name: {error}")
            continue
        try:
            read_table(method.config, choice.settings, "", ("defenses", number))
        except ScenarioError as error:
            problems += [line.removeprefix(": ") for line in str(error).splitlines()]
            continue
        try:
            mechanism = as_mod(choice.name, **choice.settings).mechanism
        except FedsimError as error:
            problems.append(f"{place}: {error}")
            continue
        private |= mechanism is not None and mechanism.holds_against_server
    if not private and not problems:
        problems.append("defenses: none is private, so the privacy loss of an update is unbounded. Add local-dp.")
    return problems


def _place_problems(policy: GuardPolicy, source: Path) -> list[str]:
    """Return the problems of files that must differ, and of folders that apps get and must not get."""
    kept: dict[str, Path] = {
        "ledger": policy.ledger,
        "key": policy.key,
        "node.secret": policy.node.secret,
        "guard.toml": source,
    }
    if policy.apps.log is not None:
        kept["apps.log"] = policy.apps.log
    problems = [
        f"{second}: {kept[second]} is the file of '{first}' too. Name another file."
        for first, second in combinations(kept, 2)
        if _is_same(kept[second], kept[first])
    ]
    granted: dict[str, tuple[Path, ...]] = {"readable": policy.apps.readable, "writable": policy.apps.writable}
    problems += [
        f"apps.{name}: {place} holds the file of '{key}', which no app may reach. Name other folders, or move the file."
        for name, paths in granted.items()
        for place in paths
        for key, file in kept.items()
        if file.resolve().is_relative_to(place.resolve())
    ]
    problems += [
        f"apps.writable: {place} holds '{entry}', by which '{key}' is found, so that an app could put another file in "
        "its place. Name another folder, or the file without symbolic links."
        for place in policy.apps.writable
        for key, file in kept.items()
        for entry in _entries(file)
        if entry != file.resolve() and entry.parent.is_relative_to(place.resolve())
    ]
    problems += [
        f"apps.writable: {place} holds code that this guard runs ({code}), which an app could change. Name a folder "
        "that holds nothing else."
        for place in policy.apps.writable
        for code in _code_within(place.resolve())
    ]
    return problems


def _is_same(first: Path, second: Path) -> bool:
    """Return whether two paths name the same file, also by symbolic and hard links."""
    return first.resolve() == second.resolve() or (first.exists() and second.exists() and first.samefile(second))


def _entries(path: Path) -> list[Path]:
    """Return the directory entries that a look-up of a path reads, with those behind its symbolic links."""
    entries: dict[Path, None] = {}
    pending = [path.absolute()]
    while pending:
        current = pending.pop()
        for part in (current, *current.parents):
            entry = part.parent.resolve() / part.name
            if part.name in ("", "..") or entry in entries:
                continue
            entries[entry] = None
            if entry.is_symlink():
                pending.append(entry.parent / entry.readlink())
    return list(entries)


def _code_within(place: Path) -> list[Path]:
    """Return the first code folder inside a place or around it, as a list of at most a single folder.

    The folders of `sys.path` may hold a place, since the folder of the policy may be in `sys.path`.
    """
    packages = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages += [(index.HOME / name).resolve() for name in ("fedsim", *index.BESIDE)]
    searched = [Path(entry).resolve() for entry in sys.path]
    return [
        *(code for code in packages if code.is_relative_to(place) or place.is_relative_to(code)),
        *(code for code in searched if code.is_relative_to(place)),
    ][:1]
