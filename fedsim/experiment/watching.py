"""What a watcher of a run gets to know."""

from __future__ import annotations

from typing import Any, Protocol

from fedsim.core.types import OnStep
from fedsim.record import Finding, RoundRecord, VictimRecord


class Watcher(Protocol):
    """A watcher of a run: a progress display, a log, a test."""

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

    def progress(self, what: str, number: int, of: int) -> None:
        """A question is about to take a step: what it does, its number from 1, and of how many."""

    def answered(self, finding: Finding) -> None:
        """A question has a finding."""


class SilentWatcher:
    """Watches a run and prints nothing."""

    def __getattr__(self, _moment: str) -> Any:
        return lambda *_about: lambda _step: None
