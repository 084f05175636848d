"""What somebody who watches a run is told."""

from __future__ import annotations

from typing import Protocol

from fedsim.core.types import OnStep
from fedsim.record import AttributeRecord, MembershipRecord, RoundRecord, VictimRecord


class Watcher(Protocol):
    """Somebody who watches a run: a progress display, a log, a test."""

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        """The attacker, in plain sentences, before anything runs."""

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        """An arm begins."""

    def round(self, record: RoundRecord) -> None:
        """A federated round ended."""

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        """An attack begins on one victim; returns what to call once an iteration."""
        ...

    def attacked(self, label: str, victim: VictimRecord) -> None:
        """That attack ended."""

    def shadow(self, label: str, number: int, total: int) -> None:
        """A membership attack is about to train one of its shadow models."""

    def judged(self, record: MembershipRecord) -> None:
        """A membership attack ended."""

    def public(self, attribute: str, number: int, total: int) -> None:
        """The attacker who asks for an attribute is about to compute a change of public examples."""

    def read(self, record: AttributeRecord) -> None:
        """An attack on an attribute ended."""
