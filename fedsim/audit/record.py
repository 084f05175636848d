"""The record of an audit: written after every step, read by the page, the tables and the verdict."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from fedsim.core.errors import FedsimError
from fedsim.core.types import Config, Knowledge
from fedsim.record import Environment, GuaranteeRecord, Interval, MembershipRecord, Summary, VictimRecord
from fedsim.record.policy import Policy
from fedsim.scenario import Scoring

RECORD = "audit.json"
ARRAYS = "audit.npz"
PAGE = "audit.html"
PROJECT = "pyproject.toml"  # where a policy stands unless another file is named
KNOWS: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


class _Part(Config):
    model_config = ConfigDict(ser_json_inf_nan="strings")


class Plan(_Part):
    """What is asked of an audit.

    Attributes:
        target: ``package.module:function`` of the factory, for people and for the child process.
        batches: batch sizes to attack.
        minutes: wall time of everything.
        memory: GiB of address space of the process that runs the user's code; 0 for no limit.
        updates: attacked for each batch size and each defense; as many as give a few images when absent.
        command: what a user types to run it again.
    """

    target: str
    batches: tuple[int, ...] = Field(default=(1, 4, 16), min_length=1)
    minutes: float = Field(default=5.0, gt=0)
    knows: tuple[Knowledge, ...] = KNOWS
    seed: int = Field(default=0, ge=0)
    memory: float = Field(default=0.0, ge=0)
    updates: int | None = Field(default=None, ge=1)
    command: str = ""
    defend: bool = Field(default=True, description="whether defenses are tried; without, an audit may end early")
    scoring: Scoring = Scoring()
    client_app: str | None = Field(default=None, description="a Flower ClientApp whose reply is attacked")
    gradients: Path | None = Field(default=None, description="captured gradients, .safetensors or .npz")
    weights: Path | None = Field(default=None, description="weights they were computed at; the factory's when absent")

    @property
    def is_captured(self) -> bool:
        """Whether the attacked update comes from elsewhere."""
        return self.client_app is not None or self.gradients is not None


class Inspection(_Part):
    """What `auto` recovered from updates of one batch size. Without `is_scored` nobody has the originals."""

    batch_size: int
    iterations: int
    victims: tuple[VictimRecord, ...] = ()
    summary: Summary | None = None
    is_scored: bool = True
    is_short: bool = Field(default=False, description="a search was ended by the clock, so it may have found more")
    failure: str | None = None
    seconds: float = 0.0

    @property
    def recovered(self) -> float | None:
        """Share of the attacked images that were recovered; None where none was scored."""
        return None if self.summary is None else self.summary.success.value

    @property
    def is_unknown(self) -> bool:
        """Whether no attack came to a guess, for lack of time or because every one failed, so that it says nothing."""
        return bool(self.victims) and not any(victim.failure is None for victim in self.victims)


class Training(_Part):
    """A short training from the audited weights, on the client's own examples.

    `guessing` is the accuracy of who always names the most frequent class of the test data.
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
        name: of the defense, and those of its settings that are not its defaults.
        accuracy_loss: accuracy without it minus with it, over the same test examples.
        loss_change: test loss with it minus without.
        slowdown: seconds of a round with it over those without.
    """

    name: str
    settings: dict[str, Any]
    sampling: Literal["passes", "poisson"] = "passes"
    inspection: Inspection | None = None
    membership: tuple[MembershipRecord, ...] = ()
    training: Training | None = None
    accuracy_loss: Interval | None = None
    loss_change: float | None = None
    slowdown: float | None = None
    guarantees: tuple[GuaranteeRecord, ...] = ()
    failure: str | None = None


class AuditRecord(_Part):
    """Everything that an audit found."""

    schema_version: Literal[1] = 1
    status: Literal["finished", "out of time", "interrupted"] = "interrupted"
    plan: Plan
    policy: Policy = Policy()
    environment: Environment
    started: str
    parameters: int = 0
    shape: tuple[int, ...] = ()
    classes: int = 0
    dropout: tuple[float, ...] = ()
    own_defenses: tuple[dict[str, Any], ...] = ()
    threat_model: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inspections: tuple[Inspection, ...] = ()
    membership: tuple[MembershipRecord, ...] = ()
    guarantees: tuple[GuaranteeRecord, ...] = ()
    training: Training | None = None
    control: Inspection | None = Field(default=None, description="the client as it is, attacked as the trials are")
    trials: tuple[Trial, ...] = ()
    unfit: tuple[tuple[str, str], ...] = Field(default=(), description="defenses that do not fit, and why")
    not_tried: tuple[str, ...] = Field(default=(), description="defenses that fit, but for which no time was left")
    seconds: float = 0.0


def command_of(plan: Plan, folder: Path, policy: Path, memory: float | None) -> str:
    """Return what a user types to run an audit again; settings at their defaults are left out."""
    words = ["fedsim", "audit", plan.target, "--batch", ",".join(map(str, plan.batches))]
    words += ["--minutes", f"{plan.minutes:g}", "--out", str(folder), "--seed", str(plan.seed)]
    if plan.knows != KNOWS:
        words += ["--knows", ",".join(plan.knows)]
    if plan.updates is not None:
        words += ["--updates", str(plan.updates)]
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
        FedsimError: there is none, or it cannot be read.
    """
    try:
        return AuditRecord.model_validate_json((folder / RECORD).read_bytes())
    except OSError as error:
        raise FedsimError(f"{folder} holds no {RECORD}: not the folder of an audit.") from error
    except ValidationError as error:
        raise FedsimError(f"{folder / RECORD} cannot be read: {error.errors()[0]['msg']}") from error
