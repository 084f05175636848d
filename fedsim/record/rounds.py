"""Records of rounds, client shares, stored updates and client cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from fedsim.core.metric import Metric
from fedsim.record.parts import Failure, RecordModel


class Utility(NamedTuple):
    """A test metric of a model and its value."""

    metric: Metric
    value: float

    @property
    def name(self) -> str:
        """The metric's title."""
        return self.metric.title

    @property
    def text(self) -> str:
        """The formatted value, without the metric's title."""
        return self.metric.format(self.value)


class RoundRecord(RecordModel):
    """A federated round, with the test metrics of the new global model if it was evaluated.

    `participants` are the clients of the cohort with counted updates, empty in an aborted round.
    `training_loss` is the mean over the examples of the counted updates, as clients reported it; with secure
    aggregation and equal weights it is the mean over clients, because the sum contains no more.
    `test_metrics` holds the test metrics by name, the most informative first; empty without an evaluation.
    `tokens` is the number of tokens behind the counted updates, padding included; None unless examples are text.
    """

    round: int
    cohort: tuple[int, ...]
    participants: tuple[int, ...]
    failures: tuple[Failure, ...] = ()
    training_loss: float
    test_metrics: dict[str, float] = Field(default_factory=dict)
    tokens: int | None = None

    def utilities(self, metrics: Mapping[str, Metric]) -> tuple[Utility, ...]:
        """Return the test metrics that reports show, the most informative first."""
        measured = (Utility(metrics[name], value) for name, value in self.test_metrics.items())
        return tuple(utility for utility in measured if utility.metric.shown)

    def utility(self, metrics: Mapping[str, Metric]) -> Utility | None:
        """Return the most informative test metric."""
        return next(iter(self.utilities(metrics)), None)


class PartitionRecord(RecordModel):
    """Data partition: clients' sizes and class counts.

    Sizes cover the first `clients_measured` clients: all clients, or a part if every client's share is sampled
    separately. `class_counts` holds (client, examples of each class) of the first clients.
    """

    scheme: str
    clients: int
    clients_measured: int
    examples_min: int
    examples_median: float
    examples_max: int
    class_counts: tuple[tuple[int, tuple[int, ...]], ...]
    class_names: tuple[str, ...]


class SavedUpdate(RecordModel):
    """An attacked update in a file of the run folder.

    The file holds ``round-R/client-C/wire/NAME``, the sent tensor or buffer, for every name, and
    ``round-R/client-C/raw/NAME``, the same before the defenses of the update; `raw_is_wire` means that these defenses
    changed no bit, so that the raw tensors are omitted. For a mean of updates ``sum`` replaces ``client-C``.
    """

    round: int
    client: int
    file: str
    raw_is_wire: bool


class ClientCost(RecordModel):
    """Cost of a client's local training of a round, measured in the scorer's replay.

    Over `n` replays: the median CPU time, and the maximum memory of the process in bytes, code and data included; None
    if the system does not report it. Both vary between runs.
    """

    processor_seconds: float
    peak_memory: int | None
    n: int
