"""The record of an audit, written after every step and read by page, tables and verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fedsim.core.devices import DeviceName
from fedsim.core.errors import FedsimError
from fedsim.core.types import Knowledge
from fedsim.judgement.policy import Policy
from fedsim.record import (
    ArmFindings,
    Columns,
    Environment,
    Finding,
    GuaranteeRecord,
    Interval,
    Part,
    VictimRecord,
)
from fedsim.record.store import AUDIT, RunFolder, check_schema
from fedsim.scenario import Scoring

RECORD = AUDIT
ARRAYS = "audit.npz"
SUGGESTS = "For stronger evidence give --minutes"  # how the note begins that an audit tells before it searches
UNDERSTOOD = "Understood: "  # how the note begins that says what an adapter was given
PAGE = "audit.html"
GROUPS = "groups"  # the question whose findings compare groups of examples
PROJECT = "pyproject.toml"  # default file of the policy
Sampling = Literal["passes", "poisson"]
KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


class AuditPlan(Part):
    """The plan of an audit.

    Attributes:
        target: ``package.module:function`` of the factory, for display and for the child process.
        batches: batch sizes to attack.
        minutes: wall time of the audit, without the import of what it audits.
        memory: GiB of address space for the process that runs the user's code; 0: no limit.
        updates: number of attacked updates per batch size and defense; absent: enough for a few images.
        command: command that runs it again.
    """

    target: str
    batches: tuple[int, ...] = Field(default=(1, 4, 16), min_length=1)
    minutes: float = Field(default=5.0, gt=0)
    knows: tuple[Knowledge, ...] = KNOWS
    seed: int = Field(default=0, ge=0)
    device: DeviceName = Field(default="cpu", description="where the client trains and attacks search")
    memory: float = Field(default=0.0, ge=0)
    updates: int | None = Field(default=None, ge=1)
    command: str = ""
    by: str | None = Field(default=None, description="column whose groups' risk is compared, beside that of classes")
    defend: bool = Field(default=True, description="whether defenses are tried; without them an audit may end early")
    scoring: Scoring = Scoring()
    client_app: str | None = Field(default=None, description="a Flower ClientApp whose reply is attacked")
    gradients: Path | None = Field(default=None, description="captured gradients, .safetensors or .npz")
    weights: Path | None = Field(default=None, description="weights of these gradients; absent: the factory's")

    @property
    def is_captured(self) -> bool:
        """Whether the attacked update was captured elsewhere: in a file, or from a ClientApp."""
        return self.client_app is not None or self.gradients is not None


class Training(Part):
    """A short training from the audited weights, on the client's own examples.

    `guessing` is the accuracy of always answering the most frequent class of the test data.
    """

    rounds: int
    batch_size: int
    test_examples: int
    accuracy: float
    guessing: float
    loss: float
    seconds_a_round: float


class DefenseCost(Part):
    """What a client pays for one more defense.

    Attributes:
        accuracy_loss: accuracy without the defense minus with it, over the same test examples.
        loss_change: test loss with the defense minus without.
        slowdown: seconds per round with the defense over those without.
    """

    accuracy_loss: Interval
    loss_change: float
    slowdown: float


class AuditArm(ArmFindings):
    """The client with one batch size: as it is, or with one more defense.

    Its findings are of attacks on updates, of membership attacks, of planted secrets, and those of `GROUPS` compare the
    risk of each class, and of each group that the user named. One arm of the client as it is trains, that of the
    largest batch; the question of members has no shadow models where a defense is tried.

    Attributes:
        kind: the client as it is; the same again, attacked as the defenses are; or with one more defense.
        defense: its name; empty where there is none.
        settings: of it, with its defaults.
        sampling: how its batches are drawn.
        training: absent where it did not train.
        cost: of the defense, where it trained.
        failure: why the rest is missing.
    """

    kind: Literal["client", "control", "defense"] = "client"
    batch_size: int
    defense: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    sampling: Sampling = "passes"
    training: Training | None = None
    cost: DefenseCost | None = None
    failure: str = ""

    @property
    def victims(self) -> tuple[VictimRecord, ...]:
        """The attacked updates."""
        return tuple(victim for attack in self.attacks for victim in attack.victims)

    @property
    def recovered(self) -> Interval | None:
        """Share of attacked examples that were recovered; None where none was scored."""
        return next((attack.value for attack in self.attacks), None)

    @property
    def is_unknown(self) -> bool:
        """Whether no attack returned a guess, for lack of time or because all failed."""
        return any(attack.failure for attack in self.attacks)


class AuditRecord(Part):
    """What an audit attacked, and what came of it, arm by arm: the client as it is first, then the defenses."""

    schema_version: Literal[2] = 2
    status: Literal["finished", "out of time", "interrupted"] = "interrupted"
    plan: AuditPlan
    policy: Policy = Policy()
    environment: Environment
    started: str
    parameters: int = 0
    shape: tuple[int, ...] = ()
    classes: int = 0
    group: str = Field(default="", description="what the user named: a column or a function")
    noun: str = Field(default="image", description="what one example is called, as metrics call it")
    dropout: tuple[float, ...] = ()
    client_defenses: tuple[dict[str, Any], ...] = ()
    threat_model: tuple[str, ...] = ()
    needed_minutes: int | None = Field(
        default=None, description="for searches as long as in the literature, if too few"
    )
    is_captured: bool = Field(default=False, description="whether the attacked update was made elsewhere")
    notes: tuple[str, ...] = ()
    arms: tuple[AuditArm, ...] = ()
    unfit: tuple[tuple[str, str], ...] = Field(default=(), description="defenses that do not fit, and why")
    not_tried: tuple[str, ...] = Field(default=(), description="defenses that fit but were not tried for lack of time")
    seconds: float = 0.0

    @property
    def client(self) -> tuple[AuditArm, ...]:
        """The client as it is, an arm for each batch size."""
        return tuple(arm for arm in self.arms if arm.kind == "client")

    @property
    def control(self) -> AuditArm | None:
        """The client as it is, attacked like the defenses."""
        return next((arm for arm in self.arms if arm.kind == "control"), None)

    @property
    def defended(self) -> tuple[AuditArm, ...]:
        """The client with each defense that was tried."""
        return tuple(arm for arm in self.arms if arm.kind == "defense")

    @property
    def training(self) -> Training | None:
        """The training of the client as it is."""
        return next((arm.training for arm in self.client if arm.training), None)

    @property
    def guarantees(self) -> tuple[GuaranteeRecord, ...]:
        """What the client as it is guarantees."""
        return tuple(stated for arm in self.client for stated in arm.guarantees)

    @property
    def items(self) -> dict[str, Columns]:
        """Values of single examples that findings about the client as it is refer to."""
        return {name: table for arm in self.client for name, table in arm.items.items()}

    def of(self, question: str) -> tuple[Finding, ...]:
        """Return the findings of a question about the client as it is, in their order."""
        return tuple(finding for arm in self.client for finding in arm.of(question))


def command_of(plan: AuditPlan, folder: Path, policy: Path, memory: float | None) -> str:
    """Return the command that runs an audit again, without settings at their defaults."""
    words = ["fedsim", "audit", plan.target, "--batch", ",".join(map(str, plan.batches))]
    words += ["--minutes", f"{plan.minutes:g}", "--out", str(folder), "--seed", str(plan.seed)]
    if plan.knows != KNOWS:
        words += ["--knows", ",".join(plan.knows)]
    if plan.updates is not None:
        words += ["--updates", str(plan.updates)]
    if plan.by is not None:
        words += ["--by", plan.by]
    if plan.device != "cpu":
        words += ["--device", plan.device]
    if memory is not None:
        words += ["--memory", f"{memory:g}"]
    if not plan.defend:
        words.append("--no-defenses")
    if policy != Path(PROJECT):
        words += ["--policy", str(policy)]
    given = {"--client-app": plan.client_app, "--gradients": plan.gradients, "--weights": plan.weights}
    words += [word for option, value in given.items() if value is not None for word in (option, str(value))]
    return shlex.join(words)


def folder_of(path: Path) -> RunFolder:
    """Return the folder of an audit, with its lock and its manifest."""
    return RunFolder(path, RECORD)


def read(folder: Path) -> AuditRecord:
    """Return the record in a folder.

    Raises:
        FedsimError: the folder has no record, or it cannot be read.
    """
    try:
        content = (folder / RECORD).read_bytes()
        check_schema(folder / RECORD, content)
        return AuditRecord.model_validate_json(content)
    except OSError as error:
        raise FedsimError(f"{folder} holds no {RECORD}, so it is not the folder of an audit.") from error
    except ValidationError as error:
        raise FedsimError(f"{folder / RECORD} cannot be read: {error.errors()[0]['msg']}") from error
