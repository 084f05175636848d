"""The server's log of a run: observed updates, finished rounds, models after watched rounds, final weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedsim.core.types import Tensors, WireEntry
from fedsim.record import RoundRecord


@dataclass
class ServerLog:
    """Stores all observations, and passes on every finished round.

    Engines call `check_cancelled` while they wait, because a round may take minutes. It raises KeyboardInterrupt after
    a stop request.
    """

    on_round: Callable[[RoundRecord], None]
    rounds: list[RoundRecord] = field(default_factory=list)
    entries: list[WireEntry] = field(default_factory=list)
    weights: Tensors = field(default_factory=dict)
    models: dict[int, Tensors] = field(default_factory=dict)
    check_cancelled: Callable[[], None] = lambda: None

    def wire(self, entry: WireEntry) -> None:
        """Store an observed update."""
        self.entries.append(entry)

    def model(self, round_: int, weights: Tensors) -> None:
        """Store the global model after a round."""
        self.models[round_] = weights

    def round(self, record: RoundRecord) -> None:
        """Store a finished round, and pass it on."""
        self.rounds.append(record)
        self.on_round(record)

    def end(self, weights: Tensors) -> None:
        """Store the final weights."""
        self.weights = weights
