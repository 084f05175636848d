"""What the server tells about a run: observed updates, finished rounds, models after watched rounds, final weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedsim.core.types import Tensors, WireEntry
from fedsim.record import RoundRecord


@dataclass
class Journal:
    """Keeps everything, and hands every finished round on.

    An engine that waits for others calls `look_up` while it waits, since a round may take minutes. It raises
    KeyboardInterrupt where somebody asked to stop.
    """

    on_round: Callable[[RoundRecord], None]
    rounds: list[RoundRecord] = field(default_factory=list)
    entries: list[WireEntry] = field(default_factory=list)
    weights: Tensors = field(default_factory=dict)
    models: dict[int, Tensors] = field(default_factory=dict)
    look_up: Callable[[], None] = lambda: None

    def wire(self, entry: WireEntry) -> None:
        """Keep an observed update."""
        self.entries.append(entry)

    def model(self, round_: int, weights: Tensors) -> None:
        """Keep the global model after a round."""
        self.models[round_] = weights

    def round(self, record: RoundRecord) -> None:
        """Keep a finished round and hand it on."""
        self.rounds.append(record)
        self.on_round(record)

    def end(self, weights: Tensors) -> None:
        """Keep the final weights."""
        self.weights = weights
