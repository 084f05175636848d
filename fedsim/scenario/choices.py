"""Choices of methods with further keys: checkpoint, label, knowledge."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.grants import Knowledge
from fedsim.core.registry import Kind, Method


class ModelChoice(Choice):
    """The clients' model and its initial weights."""

    checkpoint: Path | None = Field(
        default=None, description="weights to start from: .npz of an earlier run, .pt or .pth"
    )


def crafts_model(attack: Method) -> bool:
    """Return whether an attack changes the clients' model."""
    from fedsim.core.hooks import Attack  # noqa: PLC0415 - a scenario's keys need no torch

    attack_class = attack.derived_from(Attack)
    return attack_class is not None and attack_class.crafts_model


class ReportedChoice(Choice):
    """An attack and its name in the report."""

    kind: ClassVar[Kind | None] = "attack"
    label: str = Field(default="", description="name in the report; the attack's name when empty")

    @property
    def report_name(self) -> str:
        """The name in the report."""
        return self.label or self.name


def check_reported(attacks: Iterable[ReportedChoice]) -> None:
    """Check that no two attacks have the same name in the report.

    Raises:
        ValueError: two attacks have the same name.
    """
    names = [attack.report_name for attack in attacks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two attacks are reported as '{twice[0]}'. Set 'label' in either")


class AttackChoice(ReportedChoice):
    """An attack on updates, and its knowledge beyond the threat model."""

    also_knows: tuple[Knowledge, ...] = ()
    seconds: float | None = Field(
        default=None, gt=0, description="of the processor for an update, after which the best guess so far counts"
    )

    @property
    def crafts_model(self) -> bool:
        """Whether the attack changes the clients' model."""
        return crafts_model(registry.get("attack", self.name))


class Aggregation(Choice):
    """The aggregation rule, and the server optimizer that applies its result."""

    name: str = "mean"
    optimizer: Choice = Field(
        default=Choice(name="sgd", settings={}),
        description="sgd without a rate uses 0.1 (fedsgd) or 1 (fedavg)",
    )
