"""A site's policy: `guard.toml`, loaded and validated."""

from __future__ import annotations

import math
import sys
import sysconfig
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import Defense
from fedsim.core.registry import Kind, index
from fedsim.core.source import read_tables
from fedsim.core.types import Config, Mechanism
from fedsim.federation.mods import DefendingMod, as_mod
from fedsim.privacy.accounting import Spent, compose_rounds
from fedsim.privacy.ledger import Allowance
from fedsim.scenario.reading import read_table

_LARGEST_EPSILON, _LARGEST_DELTA = 50.0, 1e-3
EXAMPLES = "num-examples"  # by which Flower's strategies weigh a reply
TRAIN, EVALUATE = "train", "evaluate"
_SMALLEST_RANGE = 1e-9  # of a metric: its noise lies on a grid of a millionth of the range


def category_of(message_type: str) -> str:
    """Return the category of a message type: `train` of `train.ACTION`."""
    return message_type.partition(".")[0]


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

    epsilon: float = Field(
        gt=0,
        description=f"epsilon that the subject may spend, at most {_LARGEST_EPSILON:g}",
        json_schema_extra={"maximum": _LARGEST_EPSILON},
    )
    delta: float = Field(
        gt=0,
        description=f"delta at which epsilon is stated, at most {_LARGEST_DELTA:g}",
        json_schema_extra={"maximum": _LARGEST_DELTA},
    )

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
        default=(TRAIN,), min_length=1, description="allowed message types: train and evaluate, or train.ACTION"
    )
    rounds: int = Field(
        default=100, ge=1, description="largest number of training messages, and of evaluations, per run"
    )
    evaluate: Literal["decline-silently", "run"] = Field(
        default="decline-silently",
        description="reply to an evaluate message: constants without running the app, or the app's noised [metrics]",
    )
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
            if category_of(pattern) not in (TRAIN, EVALUATE):
                raise ValueError(
                    f"'{pattern}' is no message of training or evaluation, and no rule covers other replies. "
                    "Leave it out"
                )
        return types

    @field_validator("metrics")
    @classmethod
    def _leave_examples_alone(cls, metrics: dict[str, float]) -> dict[str, float]:
        if EXAMPLES in metrics:
            raise ValueError(f"'{EXAMPLES}' is 1 for every site. Leave it out")
        return metrics


class MetricTable(Config):
    """A figure of an evaluation: its range, and its noise."""

    low: float = Field(description="smaller figures are sent as this, before noise")
    high: float = Field(description="larger figures are sent as this, before noise")
    noise_multiplier: float = Field(gt=0, description="standard deviation of the noise, in units of high - low")
    every: int = Field(
        default=1,
        ge=1,
        description="each so many evaluations of a run send the figure; the others send the middle of the range for it",
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not _SMALLEST_RANGE <= self.high - self.low < math.inf:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}, expected a larger high and a finite range"
            )
        return self

    @property
    def width(self) -> float:
        """The largest change of the figure between two data sets of the site: its sensitivity."""
        return self.high - self.low

    @property
    def middle(self) -> float:
        """The figure that replaces a missing one."""
        return self.low + self.width / 2


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
    metrics: dict[str, MetricTable] = Field(
        default_factory=dict, description="figures of evaluations that are sent, by name and in this order"
    )

    def mods(self) -> list[DefendingMod]:
        """Return the defenses as Flower's mods, the outermost first: the last mod changes an update first."""
        return [as_mod(choice.name, **choice.settings) for choice in reversed(self.defenses)]

    def mechanisms(self) -> list[Mechanism]:
        """Return the private mechanisms of a training message."""
        return [mod.mechanism for mod in self.mods() if mod.mechanism is not None]

    def metric_mechanisms(self, evaluation: int) -> list[Mechanism]:
        """Return the mechanisms of an evaluation of a run: one for each metric, without a step if it is not due.

        Args:
            evaluation: number of the evaluation in its run, from 1.
        """
        return [
            Mechanism(
                unit="client",
                adjacency="replace",
                noise_multiplier=metric.noise_multiplier,
                sampling_rate=1.0,
                steps=int(evaluation % metric.every == 0),
                delta=self.budget.delta,
                adversary="the server and everybody else with access to a client's metrics",
            )
            for metric in self.metrics.values()
        ]

    def cost(self, rounds: int) -> list[Spent]:
        """Return the noisy steps of a run whose rounds have a message of each allowed category."""
        answered = {category_of(pattern) for pattern in self.messages.types}
        trainings = [compose_rounds(mechanism, rounds) for mechanism in self.mechanisms() if TRAIN in answered]
        return [*trainings, *(Spent(m.noise_multiplier, 1.0, rounds // m.every) for m in self.metrics.values())]


def read_policy(path: Path) -> GuardPolicy:
    """Return the policy in a file.

    Raises:
        ScenarioError: it cannot be read, or does not fit; the message names file and key.
    """
    if not path.is_file():
        raise ScenarioError(f"no policy {path}. docs/guard.md has a first example.")
    source = str(path)
    policy = read_table(GuardPolicy, read_tables(path), source, context=str(path.absolute().parent))
    problems = [*_defense_problems(policy), *_metric_problems(policy), *_place_problems(policy, path)]
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


def _metric_problems(policy: GuardPolicy) -> list[str]:
    """Return the problems of evaluations and their metrics, each with its key."""
    rules = policy.messages
    runs = rules.evaluate == "run"
    problems = [f"metrics.{name}: {why}" for name in policy.metrics if (why := _why_no_metric(name, rules))]
    if runs and not any(category_of(pattern) == EVALUATE for pattern in rules.types):
        problems.append('messages.evaluate: "run" needs "evaluate" in messages.types. Add it.')
    if runs and not policy.metrics:
        problems.append("metrics: an evaluation has no metric to send. Add [metrics.accuracy] with low and high.")
    if policy.metrics and not runs:
        problems.append('metrics: only evaluations send them. Set evaluate = "run" under [messages].')
    return problems


def _why_no_metric(name: str, rules: MessagesTable) -> str:
    if name == EXAMPLES:
        return "it is 1 for every site. Leave it out."
    return "messages.metrics has a constant of this name. Leave one out." if name in rules.metrics else ""


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
