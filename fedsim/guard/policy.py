"""What a site allows: `guard.toml`, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.registry import Kind
from fedsim.core.source import read_tables
from fedsim.core.types import Config
from fedsim.federation.mods import DefendingMod, as_mod
from fedsim.privacy.ledger import Allowance
from fedsim.scenario.reading import read_table

EXAMPLES = "num-examples"  # by which Flower's strategies weigh a reply
_TRAIN = "train"


def _from_the_file(path: Path, info: ValidationInfo) -> Path:
    return Path(info.context) / path.expanduser() if info.context else path


SitePath = Annotated[Path, AfterValidator(_from_the_file)]  # relative to the folder of the file
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class NodeTable(Config):
    """The SuperNode whose messages are guarded."""

    address: str = Field(
        pattern=r"^(127\.0\.0\.1|localhost):\d+$",
        description="its Runtime API, as 127.0.0.1:19300: host and port that flower-supernode was started with",
    )
    secret: SitePath = Field(description="the file that flower-supernode has as --superexec-auth-secret-file")


class BudgetTable(Config):
    """What the subject may spend in all, over runs, apps and restarts."""

    epsilon: float = Field(gt=0, description="epsilon that the subject may spend")
    delta: float = Field(gt=0, lt=1, description="delta at which it is stated")

    @property
    def allowance(self) -> Allowance:
        """The same for a ledger."""
        return Allowance(self.epsilon, self.delta)


class MessagesTable(Config):
    """Which messages are answered, and how."""

    types: tuple[str, ...] = Field(
        default=(_TRAIN,), min_length=1, description="allowed message types: train, or train.ACTION"
    )
    rounds: int = Field(default=100, ge=1, description="largest number of messages of one run that an app trains on")
    failed: Literal["noise", "error"] = Field(
        default="noise",
        description="what is sent where the app failed: an update of zero with noise, which does not tell, or an error",
    )
    constant_time: bool = Field(
        default=False,
        description="whether every reply is sent a minute and apps.seconds after its message: time tells nothing",
    )
    metrics: dict[str, float] = Field(
        default_factory=dict,
        description="what is sent as metrics beside num-examples = 1, the same always, as {train_loss = 0.0}",
    )

    @field_validator("types")
    @classmethod
    def _are_covered(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for one in types:
            if one.split(".")[0] != _TRAIN:
                raise ValueError(
                    f"'{one}' is no message of training, and defenses cover updates alone. Leave it out, and have the "
                    "server run with fraction_evaluate = 0"
                )
        return types

    @field_validator("metrics")
    @classmethod
    def _leave_examples_alone(cls, metrics: dict[str, float]) -> dict[str, float]:
        if EXAMPLES in metrics:
            raise ValueError(f"'{EXAMPLES}' is 1 for every site. Leave it out")
        return metrics


class AppsTable(Config):
    """Which apps are run, and what each of their processes gets of this machine."""

    sha256: tuple[Sha256, ...] | Literal["any"] = Field(
        description='SHA-256 of each allowed app, as `sha256sum my.fab` prints it, or "any"'
    )
    seconds: float = Field(default=3600.0, gt=0, description="after which an app is ended")
    isolation: Literal["sandbox", "none"] = Field(
        default="sandbox",
        description="sandbox: no network, no other process, no file but those below; none: all that this user may do",
    )
    readable: tuple[SitePath, ...] = Field(default=(), description="files and folders of the site's data")
    writable: tuple[SitePath, ...] = Field(default=(), description="folders that outlive a message, as for a cache")
    log: SitePath | None = Field(default=None, description="file that gets what apps print; absent: it is thrown away")


class MandatoryDefense(Choice):
    """A defense by name, with its settings beside the name."""

    kind: ClassVar[Kind | None] = "defense"


class GuardPolicy(Config):
    """A site's rules; paths are relative to the folder of the file."""

    subject: str = Field(
        min_length=1, description="whose data, as the ledger names them; one name for one set of people"
    )
    ledger: SitePath = Field(description="file that keeps what was spent; it is made where it is missing")
    key: SitePath = Field(description="file with the key of the ledger; it is made with it")
    node: NodeTable
    budget: BudgetTable
    apps: AppsTable
    defenses: tuple[MandatoryDefense, ...] = Field(
        min_length=1, description="what every update goes through, the first first; at least one is private"
    )
    server_check: bool = Field(
        default=True, description="whether received weights that look crafted are refused before an app sees them"
    )
    messages: MessagesTable = MessagesTable()

    def mods(self) -> list[DefendingMod]:
        """Return the defenses as Flower's mods, the outermost first: the last one changes an update first."""
        return [as_mod(choice.name, **choice.settings) for choice in reversed(self.defenses)]


def read_policy(path: Path) -> GuardPolicy:
    """Return the policy in a file.

    Raises:
        ScenarioError: it cannot be read, or does not fit; the message names file and key.
    """
    if not path.is_file():
        raise ScenarioError(f"there is no policy {path}. docs/guard.md has one to begin with.")
    source = str(path)
    policy = read_table(GuardPolicy, read_tables(path), source, context=str(path.absolute().parent))
    problems = [*_of_defenses(policy), *_of_places(policy)]
    if problems:
        raise ScenarioError("\n".join(f"{source}: {problem}" for problem in problems))
    return policy


def _of_defenses(policy: GuardPolicy) -> list[str]:
    """Return what is wrong with the defenses, each problem with its key."""
    problems: list[str] = []
    private = False
    for number, choice in enumerate(policy.defenses):
        place = f"defenses.{number}"
        try:
            method = registry.get("defense", choice.name)
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
        problems.append("defenses: none of them is private, so that nothing bounds what an update tells. Add local-dp.")
    return problems


def _of_places(policy: GuardPolicy) -> list[str]:
    """Return which places that apps get hold what they must not reach."""
    kept: dict[str, Path] = {"ledger": policy.ledger, "key": policy.key, "node.secret": policy.node.secret}
    granted: dict[str, tuple[Any, ...]] = {"readable": policy.apps.readable, "writable": policy.apps.writable}
    return [
        f"apps.{name}: {place} holds the file of '{key}', which no app may reach. Name other folders, or move the file."
        for name, paths in granted.items()
        for place in paths
        for key, file in kept.items()
        if file.resolve().is_relative_to(place.resolve())
    ]
