"""The record of a release check: plan, policy, environment and findings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fedsim.core.result_files import RELEASE
from fedsim.judgement.policy import Policy
from fedsim.record import ArmFindings, Finding, Record, RecordModel


class ReleasePlan(RecordModel):
    """Plan of a release check, as given on the command line."""

    target: str = Field(description="function that returns (model, loss, loader); its loader yields members")
    weights: Path
    members: str | None = Field(default=None, description="function that returns a loader of members")
    non_members: str | None = Field(
        default=None, description="function that returns a loader of others of the same law"
    )
    reference: Path | None = Field(default=None, description="weights of the same model, trained without the members")
    sites: dict[str, str] = Field(default_factory=dict, description="by site, a function as the target")
    secrets: str | None = Field(default=None, description="function that returns the planted secrets")
    seed: int = Field(default=0, ge=0)
    command: str = ""


class ReleaseRecord(Record[ReleasePlan, ArmFindings]):
    """Results of the attacks on a finished model: one arm, with each attack's finding followed by its control.

    Attributes:
        hashes: SHA-256 of each file: weights and named code.
        members: number of distinct training examples.
        non_members: number of distinct non-members.
    """

    file: ClassVar[str] = RELEASE

    policy: Policy
    hashes: dict[str, str]
    parameters: int
    members: int
    non_members: int

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings and controls of the model, in order; p after Holm."""
        return self.arms[0].findings

    @property
    def attacks(self) -> list[Finding]:
        """Findings of the attacks, without controls and failures."""
        return [finding for finding in self.findings if finding.role == "attack" and not finding.failure]

    @property
    def failed_findings(self) -> Iterator[Finding]:
        """Attacks without a result."""
        return (finding for finding in self.findings if finding.failure)

    def control_of(self, attack: Finding) -> Finding:
        """Return the negative control of an attack's finding."""
        return self.findings[self.findings.index(attack) + 1]

    def of(self, question: str) -> list[Finding]:
        """Return the attacks' findings of a question."""
        return [attack for attack in self.attacks if attack.question == question]
