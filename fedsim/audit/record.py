"""Record of an audit, written after every step and read by page, tables and verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedsim.core.result_files import AUDIT
from fedsim.core.settings import DeviceName
from fedsim.core.types import Knowledge
from fedsim.judgement.policy import Policy
from fedsim.record import (
    ArmFindings,
    Columns,
    Finding,
    GuaranteeRecord,
    Interval,
    Record,
    RecordModel,
    VictimRecord,
)
from fedsim.scenario import Scoring

ARRAYS = "audit.npz"
SUGGESTS = "For stronger evidence give --minutes"  # prefix of the note reported before the first search
UNDERSTOOD = "Understood: "  # prefix of the note that describes an adapter's input
PAGE = "audit.html"
GROUPS = "groups"  # name of the question that compares groups of examples
PROJECT = "pyproject.toml"  # default file of the policy
Sampling = Literal["shuffle", "poisson"]
KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


class AuditPlan(RecordModel):
    """Plan of an audit.

    Attributes:
        target: ``package.module:function`` of the factory, for display and for the child process.
        batches: batch sizes to attack.
        minutes: processor time of the audit, without the import of the audited module.
        memory: GiB of address space for the process that runs the user's code; 0: no limit.
        updates: number of attacked updates per batch size and defense; by default enough for a few images.
        command: command that repeats the audit.
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
    group_by: str | None = Field(
        default=None, description="column of the groups with compared risk, in addition to classes"
    )
    defend: bool = Field(default=True, description="whether defenses are tried; without them an audit may end early")
    scoring: Scoring = Scoring()
    client_app: str | None = Field(default=None, description="Flower ClientApp with the attacked reply")
    gradients: Path | None = Field(default=None, description="captured gradients, .safetensors or .npz")
    weights: Path | None = Field(default=None, description="weights of these gradients; absent: the factory's")

    @property
    def is_captured(self) -> bool:
        """Whether the attacked update was captured elsewhere: in a file, or from a ClientApp."""
        return self.client_app is not None or self.gradients is not None


class Training(RecordModel):
    """A short training from the audited weights on the client's own examples.

    `majority_accuracy` is the accuracy of always predicting the most frequent class of the test data.
    """

    rounds: int
    batch_size: int
    test_examples: int
    accuracy: float
    majority_accuracy: float
    loss: float
    seconds_a_round: float


class DefenseCost(RecordModel):
    """Cost of an additional defense for a client.

    Attributes:
        accuracy_loss: accuracy without the defense minus with it, over the same test examples.
        loss_change: test loss with the defense minus without.
        slowdown: seconds per round with the defense divided by seconds without it.
    """

    accuracy_loss: Interval
    loss_change: float
    slowdown: float


class AuditArm(ArmFindings):
    """The client with a given batch size: undefended, or with an additional defense.

    Its findings cover attacks on updates, membership attacks and planted secrets; findings of `GROUPS` compare the risk
    of classes and of the user's groups. Of the undefended arms, only the arm of the largest batch is trained.
    Membership attacks on a defended arm train no shadow models.

    Attributes:
        kind: undefended client, control (undefended, attacked like the defenses), or defended client.
        defense: name of the defense; empty without a defense.
        settings: settings of the defense, including defaults.
        sampling: batch sampling.
        training: summary of the training; absent if the arm was not trained.
        cost: cost of the defense, if it was trained.
        failure: why other results are missing.
    """

    kind: Literal["client", "control", "defense"] = "client"
    batch_size: int
    defense: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    sampling: Sampling = "shuffle"
    training: Training | None = None
    cost: DefenseCost | None = None
    failure: str = ""

    @property
    def victims(self) -> tuple[VictimRecord, ...]:
        """The attacked updates."""
        return tuple(victim for attack in self.attacks for victim in attack.victims)

    @property
    def recovered_share(self) -> Interval | None:
        """Share of attacked examples that were recovered; None if none was scored."""
        return next((attack.value for attack in self.attacks), None)

    @property
    def is_unknown(self) -> bool:
        """Whether no attack returned a guess, for lack of time or because all failed."""
        return any(attack.failure for attack in self.attacks)


class AuditRecord(Record[AuditPlan, AuditArm]):
    """Results of an audit, arm by arm: the undefended client first, then the defenses."""

    file: ClassVar[str] = AUDIT

    policy: Policy = Policy()
    parameters: int = 0
    shape: tuple[int, ...] = ()
    classes: int = 0
    group: str = Field(default="", description="the user's target: a column or a function")
    noun: str = Field(default="image", description="noun for an example, as in the metrics")
    dropout: tuple[float, ...] = ()
    client_defenses: tuple[dict[str, Any], ...] = ()
    needed_minutes: int | None = Field(
        default=None, description="for searches as long as in the literature, if too few"
    )
    is_captured: bool = Field(default=False, description="whether the attacked update was made elsewhere")
    unfit: tuple[tuple[str, str], ...] = Field(default=(), description="defenses that do not fit, and why")
    not_tried: tuple[str, ...] = Field(default=(), description="defenses that fit but were not tried for lack of time")

    @property
    def client(self) -> tuple[AuditArm, ...]:
        """The undefended client, an arm per batch size."""
        return tuple(arm for arm in self.arms if arm.kind == "client")

    @property
    def control(self) -> AuditArm | None:
        """The undefended client, attacked like the defenses."""
        return next((arm for arm in self.arms if arm.kind == "control"), None)

    @property
    def defense_arms(self) -> tuple[AuditArm, ...]:
        """The client with each evaluated defense."""
        return tuple(arm for arm in self.arms if arm.kind == "defense")

    @property
    def training(self) -> Training | None:
        """The training of the undefended client."""
        return next((arm.training for arm in self.client if arm.training), None)

    @property
    def guarantees(self) -> tuple[GuaranteeRecord, ...]:
        """Guarantees of the undefended client."""
        return tuple(stated for arm in self.client for stated in arm.guarantees)

    @property
    def items(self) -> dict[str, Columns]:
        """Per-example values that findings about the undefended client refer to."""
        return {name: table for arm in self.client for name, table in arm.items.items()}

    def of(self, question: str) -> tuple[Finding, ...]:
        """Return the findings of a question about the undefended client, in order."""
        return tuple(finding for arm in self.client for finding in arm.findings_of(question))


def command_of(plan: AuditPlan, folder: Path, policy: Path, memory: float | None) -> str:
    """Return the command that repeats an audit, without default settings."""
    words = ["fedsim", "audit", plan.target, "--batch-sizes", ",".join(map(str, plan.batches))]
    words += ["--minutes", f"{plan.minutes:g}", "--out", str(folder), "--seed", str(plan.seed)]
    if plan.knows != KNOWS:
        words += ["--knows", ",".join(plan.knows)]
    if plan.updates is not None:
        words += ["--updates", str(plan.updates)]
    if plan.group_by is not None:
        words += ["--group-by", plan.group_by]
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
