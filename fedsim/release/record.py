"""The record of a release check: what was attacked, by what, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedsim.judgement.policy import Policy
from fedsim.record import Environment, Finding, Part


class ReleasePlan(Part):
    """What is checked, as the command line names it."""

    target: str = Field(description="function that returns (model, loss, loader); its loader yields members")
    weights: Path
    members: str | None = Field(default=None, description="function that returns a loader of members")
    others: str | None = Field(default=None, description="function that returns a loader of others of the same law")
    reference: Path | None = Field(default=None, description="weights of the same model, trained without the members")
    sites: dict[str, str] = Field(default_factory=dict, description="by site, a function as the target")
    secrets: str | None = Field(default=None, description="function that returns the planted secrets")
    seed: int = Field(default=0, ge=0)
    command: str = ""


class ReleaseRecord(Part):
    """What attacks made of a finished model.

    Attributes:
        hashes: SHA-256 of each file: weights, and the code that was named.
        members: examples that the model was trained on, each once.
        others: examples that it was not.
        findings: of each figure, the attack's and behind it the control, which must be at chance; p is after Holm.
    """

    schema_version: Literal[1] = 1
    plan: ReleasePlan
    policy: Policy
    environment: Environment
    started: str
    hashes: dict[str, str]
    parameters: int
    members: int
    others: int
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def attacks(self) -> list[Finding]:
        """What attacks came to, without controls and without those that failed."""
        return [one for one in self.findings if one.role == "attack" and not one.failure]

    @property
    def failed(self) -> Iterator[Finding]:
        """Attacks that came to nothing."""
        return (one for one in self.findings if one.failure)

    def control_of(self, attack: Finding) -> Finding:
        """Return what the same attack comes to by luck."""
        return self.findings[self.findings.index(attack) + 1]

    def of(self, question: str) -> list[Finding]:
        """Return what attacks of a question came to."""
        return [one for one in self.attacks if one.question == question]
