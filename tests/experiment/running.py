"""Runs of small scenarios that nobody watches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.core.types import OnStep
from fedsim.experiment import runner
from fedsim.record import Finding, RoundRecord, RunRecord, VictimRecord
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario

Build = Callable[..., Scenario]

SHORT = {
    "federation": {"clients": 4, "rounds": 2},
    "threat": {"victims": 2},
    "attacks": [
        {"name": "inverting-gradients", "label": "IG", "max_iterations": 8},
        {"name": "wiig", "label": "WIIG", "max_iterations": 8, "also_knows": ["masks"]},
    ],
    "arms": {"model.dropout": [0.0, 0.25]},
}


class Silent:
    """Watches nothing, and can stop the run at a chosen attack."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.attacks: list[str] = []

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        self.sentences = sentences

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        self.name = name

    def round(self, record: RoundRecord) -> None:
        self.last = record

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        if self.stop_at == len(self.attacks):
            raise KeyboardInterrupt
        self.attacks.append(f"{self.name}: {label} {victim}/{victims}")
        return lambda _step: None

    def report_victim(self, label: str, victim: VictimRecord) -> None:
        self.victim = victim

    def progress(self, what: str, number: int, of: int) -> None:
        self.step = (what, number, of)

    def report_finding(self, finding: Finding) -> None:
        self.finding = finding


def run(scenario: Scenario, path: Path, watcher: Silent | None = None, earlier: RunRecord | None = None) -> RunRecord:
    folder = RunFolder(path)
    if earlier is None:
        folder.create(overwrite=False)
    return runner.run(scenario, folder, watcher or Silent(), command="test", earlier=earlier)


def results(record: RunRecord) -> Any:
    """Everything that may depend on scenario and seed alone."""
    dumped = record.model_dump(mode="json", include={"arms", "plan", "digest", "threat_model"})
    for arm in dumped["arms"]:
        del arm["seconds"], arm["client_cost"]
        for attack in arm["findings"]:
            del attack["seconds"]
            for victim in attack["victims"]:
                del victim["seconds"]
    return dumped
