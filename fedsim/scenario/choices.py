"""What a scenario may say of a method beside its settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.hooks import Attack
from fedsim.core.registry import Method
from fedsim.core.types import Knowledge


class ModelChoice(Choice):
    """The clients' model, and where its first weights come from."""

    checkpoint: Path | None = Field(
        default=None, description="weights to start from: .npz of an earlier run, .pt or .pth"
    )


def crafts(attack: Method) -> bool:
    """Say whether an attack changes the clients' model."""
    attack_class = attack.derived_from(Attack)
    return attack_class is not None and attack_class.crafts


class ReportedChoice(Choice):
    """An attack, and under which name it is reported."""

    label: str = Field(default="", description="name in the report; the attack's name when empty")

    @property
    def reported(self) -> str:
        """The name in the report."""
        return self.label or self.name


def check_reported(attacks: Iterable[ReportedChoice]) -> None:
    """Refuse two attacks that are reported under one name.

    Raises:
        ValueError: two are.
    """
    names = [attack.reported for attack in attacks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two attacks are reported as '{twice[0]}'. Give one a label")


class AttackChoice(ReportedChoice):
    """An attack on updates, and what it knows beyond the threat model."""

    also_knows: tuple[Knowledge, ...] = ()
    seconds: float | None = Field(
        default=None, gt=0, description="of the processor for an update, after which the best guess so far counts"
    )

    @property
    def crafts(self) -> bool:
        """Whether the attack changes the clients' model."""
        return crafts(registry.get("attack", self.name))


class Aggregation(Choice):
    """The rule that combines updates, and the server optimizer that steps along the result."""

    name: str = "mean"
    optimizer: Choice = Field(
        default=Choice(name="sgd", settings={}),
        description="sgd without a rate takes steps of 0.1 (fedsgd) or 1 (fedavg)",
    )
