"""Records of runs, audits and release checks: one shape for all, with the arms, environment and status of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Discriminator, Field, Tag

from fedsim.core import registry
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.metric import Metric
from fedsim.core.result_files import RECORD
from fedsim.record.findings import ATTACKS, Columns, Finding, QuestionInfo
from fedsim.record.guarantees import GuaranteeRecord
from fedsim.record.parts import Failure, RecordModel
from fedsim.record.rounds import ClientCost, PartitionRecord, RoundRecord, SavedUpdate
from fedsim.record.scores import AttackFinding
from fedsim.record.validity import mark_invalid


def _shape_of(finding: Any) -> Literal["attack", "answer"]:
    question = finding["question"] if isinstance(finding, Mapping) else finding.question
    return "attack" if question == ATTACKS else "answer"


AnyFinding = Annotated[
    Annotated[AttackFinding, Tag("attack")] | Annotated[Finding, Tag("answer")], Discriminator(_shape_of)
]


class ArmFindings(RecordModel):
    """Guarantees and findings of an arm of a run or an audit, or of the model of a release check."""

    name: str
    guarantees: tuple[GuaranteeRecord, ...] = Field(
        default=(), description="a guarantee for each method of the arm with a private mechanism"
    )
    findings: tuple[AnyFinding, ...] = Field(default=(), description="findings of attacks and questions, in order")
    items: dict[str, Columns] = Field(default_factory=dict, description="values of single examples, by name")
    seconds: float = 0.0

    @property
    def attacks(self) -> tuple[AttackFinding, ...]:
        """The findings of attacks on updates."""
        return tuple(finding for finding in self.findings if isinstance(finding, AttackFinding))

    @property
    def answers(self) -> tuple[Finding, ...]:
        """The findings of all other questions."""
        return tuple(finding for finding in self.findings if not isinstance(finding, AttackFinding))

    @property
    def metric_names(self) -> Iterator[str]:
        """The name of every metric value of the arm, with repetitions."""
        return (name for finding in self.findings for name in finding.metric_names)

    def findings_of(self, question: str) -> tuple[Finding, ...]:
        """Return the findings of a question, in their order."""
        return tuple(finding for finding in self.findings if finding.question == question)

    def with_findings(self, findings: Sequence[Finding], items: Mapping[str, Columns]) -> Self:
        """Return a copy with further findings, and the tables to which they refer.

        A negative control above chance invalidates the findings of its group, earlier findings included.
        """
        changes = {"findings": mark_invalid((*self.findings, *findings)), "items": {**self.items, **items}}
        return self.model_copy(update=changes)


class ArmRecord(ArmFindings):
    """A completed combination of the scenario's arms.

    `dropout` holds the rate of every dropout site of the attacked model; empty without dropout.
    `attacked_model` describes the state of the attacked model, for example ``untrained`` or a checkpoint's name.
    """

    values: dict[str, Any]
    parameters: int
    dropout: tuple[float, ...]
    model_hash: str
    attacked_model: str
    rounds: tuple[RoundRecord, ...]
    replay_matches: bool = Field(
        description="the scorer's replay of each victim equals the server's view: bit by bit, or on engine "
        "'vectorized', with another order of summation, within 1e-4 of the update's norm"
    )
    updates: tuple[SavedUpdate, ...] = Field(default=(), description="empty unless the scenario keeps updates")
    partition: PartitionRecord | None = None
    complete: bool = Field(default=True, description="false while attacks of this arm are outstanding")
    client_cost: ClientCost | None = Field(default=None, description="absent when no update was observed")

    @property
    def metric_names(self) -> Iterator[str]:
        """The name of every metric value of the arm, test metrics of its rounds included."""
        yield from (name for entry in self.rounds for name in entry.test_metrics)
        yield from super().metric_names


class ArmUpdate(RecordModel):
    """Findings of a question, appended to the record of the arm in progress."""

    arm: int = Field(description="its number from 0")
    place: int = Field(description="how many findings the arm had before")
    findings: tuple[AnyFinding, ...] = ()
    items: dict[str, Columns] = Field(default_factory=dict)
    seconds: float = 0.0
    metrics: tuple[Metric, ...] = Field(default=(), description="definitions of the metrics in the part")


class Environment(RecordModel):
    """Environment of a run, for its repetition."""

    command: str
    versions: dict[str, str]
    python: str
    platform: str
    processor: str
    cores: int
    torch_threads: int
    git_commit: str | None
    git_dirty: bool | None

    @property
    def short_commit(self) -> str:
        """The first twelve digits of the commit; "unknown" outside of a checkout."""
        return (self.git_commit or "unknown")[:12]


PlanT = TypeVar("PlanT")
ArmT = TypeVar("ArmT", bound=ArmFindings)


class Record(RecordModel, Generic[PlanT, ArmT]):
    """Record of a run, an audit or a release check.

    Its status is ``interrupted`` until the end, so a kill leaves a correct record. A subclass adds facts of its kind.

    Attributes:
        file: name of the record's file, which identifies the kind of its folder.
    """

    file: ClassVar[str]

    schema_version: Literal[3] = SCHEMA_VERSION
    status: Literal["finished", "interrupted", "failed", "out of time"] = "interrupted"
    plan: PlanT = Field(description="input of the command: a scenario, or the options of an audit or a release check")
    environment: Environment
    started: str = Field(description="UTC, ISO 8601")
    ended: str | None = None
    seconds: float = Field(default=0.0, description="duration of an audit")
    threat_model: tuple[str, ...] = Field(default=(), description="the threat model in plain sentences")
    notes: tuple[str, ...] = Field(default=(), description="remarks on the subject and on skipped steps")
    arms: tuple[ArmT, ...] = ()
    failures: tuple[Failure, ...] = ()
    questions: tuple[QuestionInfo, ...] = Field(default=(), description="questions besides attacks on updates")
    metrics: tuple[Metric, ...] = Field(default=(), description="definitions of the metrics in the record")

    def with_part(self, part: ArmUpdate) -> Self:
        """Return the record with the part added to its last arm; a part of another arm or a known part is ignored."""
        if part.arm != len(self.arms) - 1:
            return self
        *before, arm = self.arms
        if part.place != len(arm.findings):
            return self
        grown = arm.with_findings(part.findings, part.items).model_copy(update={"seconds": part.seconds})
        declared = {metric.name: metric for metric in (*self.metrics, *part.metrics)}
        return self.model_copy(update={"arms": (*before, grown), "metrics": tuple(declared.values())})

    def with_declarations(self, *names: str) -> Self:
        """Return the record with the declarations of its metrics and of the named metrics.

        Raises:
            FedsimError: a name is no metric.
        """
        return self.model_copy(update={"metrics": registry.find_metrics([*self.figures, *names])})

    @property
    def metrics_by_name(self) -> dict[str, Metric]:
        """The metric declarations of the record, by name."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def figures(self) -> Iterator[str]:
        """The name of every metric value in the record, with repetitions."""
        return (name for arm in self.arms for name in arm.metric_names)


class RunRecord(Record[dict[str, Any], ArmRecord]):
    """Record of a run; its plan is the scenario."""

    file: ClassVar[str] = RECORD

    digest: str = Field(description="hash of the scenario, without its policy, tuning and expected figures")
