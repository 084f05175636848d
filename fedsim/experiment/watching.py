"""Interface of a run's watchers."""

from __future__ import annotations

from typing import Any, Protocol, cast

from fedsim.core.types import OnStep
from fedsim.record import Finding, RoundRecord, VictimRecord


class Watcher(Protocol):
    """A watcher of a run: a progress display, a log, a test."""

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        """Receive the threat model in plain sentences, before the run starts."""

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        """Receive the start of an arm."""

    def round(self, record: RoundRecord) -> None:
        """Receive the end of a federated round."""

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        """Receive the start of an attack on a victim; return the step callback."""
        ...

    def report_victim(self, label: str, victim: VictimRecord) -> None:
        """Receive the end of that attack."""

    def progress(self, label: str, number: int, total: int) -> None:
        """Receive the start of a question's step: its name, its number from 1, and the number of steps."""

    def report_finding(self, finding: Finding) -> None:
        """Receive a finding of a question."""


class SilentWatcher:
    """A watcher without output."""

    def __getattr__(self, _moment: str) -> Any:
        return lambda *_about: lambda _step: None


SILENT = cast("Watcher", SilentWatcher())
