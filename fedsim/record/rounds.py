"""What a federation's rounds and shares leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from fedsim.core.metric import Metric
from fedsim.record.parts import Failure, Part


class Utility(NamedTuple):
    """How good a model is: what was measured on the test set, and the figure."""

    metric: Metric
    value: float

    @property
    def name(self) -> str:
        """What was measured, for people."""
        return self.metric.title

    @property
    def in_words(self) -> str:
        """For people, without the name."""
        return self.metric.format(self.value)


class RoundRecord(Part):
    """One federated round. What is tested is the new global model on the test set, when it is evaluated.

    `participants` are the clients of the cohort whose updates counted, none in an aborted round.
    `training_loss` is the mean over the examples of the updates that counted, as they were stated; behind secure
    aggregation with equal weights it is the mean over their clients, since the sum tells no more.
    `tested` holds the metrics of the test set by name, the most telling first; empty when nothing was evaluated.
    `tokens` are those of the examples behind the updates that counted, what fills short ones up included; None unless
    examples are text.
    """

    round: int
    cohort: tuple[int, ...]
    participants: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    training_loss: float
    tested: dict[str, float] = Field(default_factory=dict)
    tokens: int | None = None

    def utilities(self, metrics: Mapping[str, Metric]) -> tuple[Utility, ...]:
        """Return what was measured and people are shown, the most telling first."""
        measured = (Utility(metrics[name], value) for name, value in self.tested.items())
        return tuple(utility for utility in measured if utility.metric.shown)

    def utility(self, metrics: Mapping[str, Metric]) -> Utility | None:
        """Return the most telling of what was measured."""
        return next(iter(self.utilities(metrics)), None)


class PartitionRecord(Part):
    """Who owns how much of which class.

    Sizes are those of `clients_measured` clients, the first by number: all of them, or a part where every client's
    share is drawn for itself. `class_counts` holds (client, examples of each class) of the first clients.
    """

    scheme: str
    clients: int
    clients_measured: int
    examples_min: int
    examples_median: float
    examples_max: int
    class_counts: tuple[tuple[int, tuple[int, ...]], ...]
    class_names: tuple[str, ...]


class KeptUpdate(Part):
    """An attacked update in a file of the run folder.

    The file holds ``round-R/client-C/wire/NAME``, what travelled, for every tensor and buffer by name, and
    ``round-R/client-C/raw/NAME``, the same before the defenses that change uploads; `raw_is_wire` says that these
    changed no bit, so that the second is left out.
    """

    round: int
    client: int
    file: str
    raw_is_wire: bool


class ClientCost(Part):
    """What a client's local training of one round took, when the scorer repeated it alone in its process.

    Over `n` repetitions: the median of the processor time, and in bytes the most memory that the process held, programs
    and data included; None where the system does not say. Both differ between runs.
    """

    processor_seconds: float
    peak_memory: int | None
    n: int
