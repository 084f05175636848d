"""Record of a run: arms, environment, status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag

from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.core.metric import Metric
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
    """Guarantees and findings of an arm of a run or an audit."""

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


class RunRecord(RecordModel):
    """Record of a run. Its status is ``interrupted`` until the run ends, so a kill leaves a correct record."""

    schema_version: Literal[2] = SCHEMA_VERSION
    status: Literal["finished", "interrupted", "failed"]
    scenario: dict[str, Any]
    scenario_hash: str
    threat_model: tuple[str, ...] = Field(description="the threat model in plain sentences, as printed before the run")
    environment: Environment
    started: str = Field(description="UTC, ISO 8601")
    ended: str | None = None
    arms: tuple[ArmRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    questions: tuple[QuestionInfo, ...] = Field(default=(), description="questions besides attacks on updates")
    metrics: tuple[Metric, ...] = Field(default=(), description="definitions of the metrics in the record")

    def with_part(self, part: ArmUpdate) -> RunRecord:
        """Return the record with the part added to its last arm; a part of another arm or a known part is ignored."""
        if part.arm != len(self.arms) - 1:
            return self
        *before, arm = self.arms
        if part.place != len(arm.findings):
            return self
        grown = arm.with_findings(part.findings, part.items).model_copy(update={"seconds": part.seconds})
        declared = {metric.name: metric for metric in (*self.metrics, *part.metrics)}
        return self.model_copy(update={"arms": (*before, grown), "metrics": tuple(declared.values())})

    @property
    def declared(self) -> dict[str, Metric]:
        """The metric declarations of the record, by name."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def figures(self) -> Iterator[str]:
        """The name of every metric value in the record, with repetitions."""
        for arm in self.arms:
            for entry in arm.rounds:
                yield from entry.test_metrics
            yield from (name for finding in arm.findings for name in finding.measured)
