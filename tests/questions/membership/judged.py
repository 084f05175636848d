"""Whom membership attacks judge in tests, and who watches."""

from collections.abc import Callable
from typing import Any

from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.types import Target
from fedsim.record import Finding
from tests.experiment.running import Silent

Cases = Callable[..., dict[Target, membership.Case]]


CANDIDATES = 40


ALL = ["loss-threshold", "calibrated", "rmia", "loss-trajectory", "update-alignment"]


SMALL: dict[str, Any] = {
    "data": {"name": "digits", "test_fraction": 0.8},
    "federation": {"algorithm": "fedavg", "clients": 4, "rounds": 2, "local_steps": 3, "batch_size": 8},
    "threat": {"rounds": [1, 2]},
    "membership": {"candidates": CANDIDATES, "attacks": [{"name": name} for name in ALL]},
}


class Watching(Silent):
    """Counts shadow models, keeps findings, and can stop the run at a shadow model."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at_shadow = stop_at
        self.shadows: list[str] = []
        self.findings: list[Finding] = []

    def progress(self, what: str, number: int, of: int) -> None:
        if len(self.shadows) == self.stop_at_shadow:
            raise KeyboardInterrupt
        self.shadows.append(f"{what} {number}/{of}")

    def report_finding(self, finding: Finding) -> None:
        self.findings.append(finding)
