"""The record of an audit, written after every step and read by page, tables and verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from fedsim.core.devices import DeviceName
from fedsim.core.errors import FedsimError
from fedsim.core.types import Config, Knowledge
from fedsim.metrics.statistics import Summary
from fedsim.record import Columns, Environment, Finding, GuaranteeRecord, Interval, VictimRecord
from fedsim.record.policy import Policy
from fedsim.record.store import check_schema
from fedsim.scenario import Scoring

RECORD = "audit.json"
ARRAYS = "audit.npz"
SUGGESTS = "For stronger evidence give --minutes"  # how the note begins that an audit tells before it searches
PAGE = "audit.html"
GROUPS = "groups"  # the question whose findings compare groups of examples
PROJECT = "pyproject.toml"  # default file of the policy
KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


class _Part(Config):
    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="strings")


class AuditPlan(_Part):
    """The plan of an audit.

    Attributes:
        target: ``package.module:function`` of the factory, for display and for the child process.
        batches: batch sizes to attack.
        minutes: wall time of the whole audit.
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


class Inspection(_Part):
    """Results of `auto` on updates of one batch size; without `is_scored` the originals are unknown."""

    batch_size: int
    iterations: int
    victims: tuple[VictimRecord, ...] = ()
    summary: Summary | None = None
    is_scored: bool = True
    is_short: bool = Field(default=False, description="whether the clock ended a search, which could have found more")
    failure: str | None = None
    seconds: float = 0.0

    @property
    def recovered(self) -> float | None:
        """Share of attacked images that were recovered; None where none was scored."""
        return None if self.summary is None else self.summary.success.value

    @property
    def is_unknown(self) -> bool:
        """Whether no attack returned a guess, for lack of time or because all failed."""
        return bool(self.victims) and not any(victim.failure is None for victim in self.victims)


class Training(_Part):
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


class Trial(_Part):
    """One defense, tried on the same updates as the undefended client.

    Attributes:
        name: name of the defense, with settings that are not defaults.
        accuracy_loss: accuracy without the defense minus with it, over the same test examples.
        loss_change: test loss with the defense minus without.
        slowdown: seconds per round with the defense over those without.
        findings: of membership attacks without shadow models.
    """

    name: str
    settings: dict[str, Any]
    sampling: Literal["passes", "poisson"] = "passes"
    inspection: Inspection | None = None
    findings: tuple[Finding, ...] = ()
    training: Training | None = None
    accuracy_loss: Interval | None = None
    loss_change: float | None = None
    slowdown: float | None = None
    guarantees: tuple[GuaranteeRecord, ...] = ()
    failure: str | None = None


class AuditRecord(_Part):
    """What an audit attacked, and its findings.

    Findings of the question `membership` are of attacks on the client as it is, those of `exposure` of secrets planted
    into a language model's texts, and those of `GROUPS` compare the risk of each class, and of each group that the user
    named. `items` holds the tables of single examples that findings refer to.
    """

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
    notes: tuple[str, ...] = ()
    inspections: tuple[Inspection, ...] = ()
    findings: tuple[Finding, ...] = ()
    items: dict[str, Columns] = Field(default_factory=dict)
    guarantees: tuple[GuaranteeRecord, ...] = ()
    training: Training | None = None
    control: Inspection | None = Field(default=None, description="the client as it is, attacked like the trials")
    trials: tuple[Trial, ...] = ()
    unfit: tuple[tuple[str, str], ...] = Field(default=(), description="defenses that do not fit, and why")
    not_tried: tuple[str, ...] = Field(default=(), description="defenses that fit but were not tried for lack of time")
    seconds: float = 0.0

    def of(self, question: str) -> tuple[Finding, ...]:
        """Return the findings of a question, in their order."""
        return tuple(finding for finding in self.findings if finding.question == question)


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
