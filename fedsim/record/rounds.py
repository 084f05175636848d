"""What a federation's rounds and shares leave behind."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.record.parts import Failure, Part

CORRELATION = "Spearman correlation"


class Utility(NamedTuple):
    """How good a model is: what was measured on the test set, and the figure, at most 1."""

    name: str
    value: float

    @property
    def told(self) -> str:
        """For people, without the name: a correlation is no share."""
        return f"{self.value:.3f}" if self.name == CORRELATION else f"{self.value:.1%}"


class RoundRecord(Part):
    """One federated round. What is tested is the new global model on the test set, when it is evaluated.

    `participants` are the clients of the cohort whose updates counted, none in an aborted round; None in records of
    versions that did not say so.
    `training_loss` is the mean over the examples of the updates that counted, as they were stated; behind secure
    aggregation with equal weights it is the mean over their clients, since the sum tells no more.
    `test_span_f1` is the micro F1 of spans, where labels are tags that mark them. `test_spearman` is the rank
    correlation of cosines with what people say, in [-1, 1], where there are no labels, and so no loss and no accuracy.
    `tokens` are those of the examples behind the updates that counted, what fills short ones up included; None unless
    examples are text.
    """

    round: int
    cohort: tuple[int, ...]
    participants: tuple[int, ...] | None = None
    failures: tuple[Failure, ...] = ()
    training_loss: float
    test_loss: float | None = None
    test_accuracy: float | None = None
    test_span_f1: float | None = None
    test_spearman: float | None = None
    tokens: int | None = None

    @property
    def utilities(self) -> tuple[Utility, ...]:
        """What was measured, the most telling first: the correlation of sentences, the F1 of spans, accuracy."""
        tested = {CORRELATION: self.test_spearman, "span F1": self.test_span_f1, "accuracy": self.test_accuracy}
        return tuple(Utility(name, value) for name, value in tested.items() if value is not None)

    @property
    def utility(self) -> Utility | None:
        """The most telling of what was measured."""
        return next(iter(self.utilities), None)


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
