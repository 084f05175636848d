"""The server: a Flower Strategy that aggregates updates and stores the updates watched by the threat model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim.core.errors import Diverged, FedsimError
from fedsim.core.nets.vectors import Layout
from fedsim.core.types import Contribution, Tensors, Update, WireEntry
from fedsim.federation import participation
from fedsim.federation.journal import ServerLog
from fedsim.federation.stepping import apply_server_step
from fedsim.metrics.testing import training_loss
from fedsim.record import Cause, Failure
from fedsim.scenario import Scenario
from fedsim.scenario.world import World

Nodes = Sequence[int] | Mapping[int, int]  # client number -> node id
UPDATE, VECTOR, TYPE = "update", "vector", "type"
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_CAUSES: dict[int, Cause] = {701: "dropout", 702: "late", 703: "not finite", 704: "refused"}
_DECLARED: tuple[Cause, ...] = ("dropout", "late", "crash")


class Reply(NamedTuple):
    """A client's reply: its update as a flat vector, or its failure."""

    client: int
    vector: Tensor | None = None
    examples: int = 0
    loss: float = float("nan")
    failure: Failure | None = None


def failure_reply(client: int, why: str, cause: Cause = "error") -> Reply:
    """Return the reply of a failed client."""
    return Reply(client, failure=Failure(subject=f"client {client}", reason=why, cause=cause))


def silent(client: int) -> Reply:
    """Return the reply of a client that sent nothing."""
    return failure_reply(client, "no reply", "no reply")


@dataclass(frozen=True)
class RoundMessages(Iterable[Message]):
    """The messages of a round, generated lazily. An engine with batched training reads the fields instead."""

    round: int
    arrays: ArrayRecord
    weights: Tensors
    cohort: tuple[int, ...]
    nodes: Nodes
    last_counted_rounds: Mapping[int, int]

    def __iter__(self) -> Iterator[Message]:
        """Yield a message to each client: the weights, the round, and its last counted round."""
        for client in self.cohort:
            config = ConfigRecord({"round": self.round, "counted": self.last_counted_rounds.get(client, 0)})
            content = RecordDict({"arrays": self.arrays, "config": config})
            yield Message(content, dst_node_id=self.nodes[client], message_type="train")


@dataclass
class RoundState:
    """Results of the current round.

    Attributes:
        round: round number.
        cohort: sampled clients.
        failures: failures of clients or of the round.
        participants: clients with counted updates.
        examples: number of examples of the counted updates. Clients state it; with secure aggregation and equal weights
            it is unknown to the server, and the simulation fills it in for attackers with that grant.
        weight: total weight of the counted updates in the mean loss.
        loss: sum of the losses, times their weights.
    """

    round: int = 0
    cohort: tuple[int, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    participants: list[int] = field(default_factory=list)
    examples: int = 0
    weight: int = 0
    loss: float = 0.0

    @property
    def update_count(self) -> int:
        """Number of counted updates."""
        return len(self.participants)

    @property
    def training_loss(self) -> float:
        """Mean training loss over the examples of the counted updates; over clients, if all have equal weight."""
        return training_loss(self.loss, self.weight)


class AggregationStrategy(Strategy):
    """Combines a round's updates by the scenario's rule, and applies the server's optimizer step.

    Cohorts are sampled by client number from the scenario's seed, replies are combined in the order of client numbers,
    and an update that is not finite is reported and left out: the result depends on neither node ids nor timing. If
    replies arrive in order, each is combined and freed before the next is requested.
    """

    def __init__(self, world: World, nodes: Nodes, journal: ServerLog) -> None:
        """Set world, node ids by client number, and journal."""
        self._world = world
        self._nodes = nodes
        self._journal = journal
        self._rule = world.stack.new_aggregator()
        self._optimizer_state: dict[str, Tensor] = {}
        self._weights: Tensors = {}
        self._encoded: ArrayRecord | None = None
        self._history: dict[int, Tensors] = {}
        self._counted: dict[int, list[int]] = {}
        self.tally = RoundState()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the weights to this round's cohort."""
        if arrays is not self._encoded:  # no decoding of arrays that this server encoded
            self._weights = arrays.to_torch_state_dict()
        crafted = self._world.models.crafted_changes.tensors
        if crafted and server_round in self._world.scenario.threat.rounds:
            self._weights = {**self._weights, **crafted}
            arrays = self._encoded = ArrayRecord(dict(self._weights))
        self.tally = RoundState(server_round, participation.cohort(self._world.scenario, server_round))
        if self._world.facts.keeps_state and server_round < max(self._world.scenario.threat.rounds):
            self._history[server_round] = self._weights
        counted = {client: self._counted[client][-1] for client in self.tally.cohort if client in self._counted}
        return RoundMessages(server_round, arrays, self._weights, self.tally.cohort, self._nodes, counted)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new weights, or None if no update counted."""
        contributions = self._contributions(server_round, self._order_replies(replies))
        first = next(contributions, None)
        if first is None and not self._rule.acts_without_updates:
            return None, None
        known = contributions if first is None else itertools.chain((first,), contributions)
        step = self._rule.combine(known, self._world.server_round(server_round, self._weights))
        for _ in contributions:
            raise FedsimError(f"rule '{self._world.scenario.aggregation.name}' did not take every update of the round.")
        self._watch_sum(server_round, step)
        return self._step(step), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no messages: the server evaluates on its own test set."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return None: clients do not evaluate."""
        return None

    def summary(self) -> None:
        """Log nothing: the display and the record show the results."""

    def _order_replies(self, replies: Iterable[Message]) -> Iterator[Reply]:
        """Yield replies in the order of client numbers, as early as possible, and a failure for each missing reply.

        The first reply of a client counts; replies of nodes outside the round are ignored.
        """
        clients = {self._nodes[client]: client for client in self.tally.cohort}
        waiting: dict[int, Reply] = {}
        outstanding = iter(self.tally.cohort)
        due = next(outstanding, None)
        for message in replies:
            reply = message if isinstance(message, Reply) else self._reply(message, clients)
            if reply is not None:
                waiting.setdefault(reply.client, reply)
            while due in waiting:
                yield waiting.pop(due)
                due = next(outstanding, None)
        while due is not None:
            yield waiting.pop(due, None) or silent(due)
            due = next(outstanding, None)

    def _reply(self, message: Message, clients: Mapping[int, int]) -> Reply | None:
        client = clients.get(message.metadata.src_node_id)
        return None if client is None else unpack(message, client)

    def _contributions(self, round_: int, replies: Iterable[Reply]) -> Iterator[Contribution]:
        tally, threat = self.tally, self._world.scenario.threat
        is_watched = threat.view == "single-update" and round_ in threat.rounds
        for reply in replies:
            failure = self._failure(round_, reply)
            if reply.vector is None or failure is not None:
                tally.failures.append(failure or Failure(subject=f"client {reply.client}", reason="no update"))
                continue
            if is_watched and tally.update_count < threat.victims:
                self._journal.wire(self._observe(round_, (reply.client,), reply.vector, reply.examples, reply.loss))
            tally.participants.append(reply.client)
            tally.examples += reply.examples
            tally.weight += reply.examples
            tally.loss += reply.loss * reply.examples
            self._note_counted(round_, reply.client)
            yield Contribution(reply.client, reply.vector, reply.examples)
        self._check_failures()

    def _failure(self, round_: int, reply: Reply) -> Failure | None:
        """Return the failure of a reply, or None. A simulated crash arrives as a plain error, as a real one would."""
        failure = reply.failure or _unusable(reply, self._world.models.layout)
        if failure is None or failure.cause != "error":
            return failure
        fate = participation.client_failure(
            self._world.scenario, round_, reply.client, self._world.data.steps(reply.client)
        )
        if fate is None or fate.cause != "crash":
            return failure
        return Failure(subject=failure.subject, reason=fate.why, cause=fate.cause)

    def _check_failures(self) -> None:
        """Raise if no update counted for a reason that will persist in the next round."""
        undeclared = [f for f in self.tally.failures if f.cause not in _DECLARED]
        causes = {f.cause for f in undeclared}
        if self.tally.update_count or len(causes) != 1:
            return
        if causes == {"error"}:
            raise FedsimError(f"every client of the round failed, the first with: {undeclared[0].reason}")
        if causes == {"not finite"}:
            failure = f"round {self.tally.round}: no finite update of {len(undeclared)}"
            raise Diverged(f"{failure}; {_why_diverged(self._world.scenario, self.tally.round)}")

    def _note_counted(self, round_: int, client: int) -> None:
        if self._world.facts.keeps_state:
            self._counted.setdefault(client, []).append(round_)

    def _watch_sum(self, round_: int, mean: Tensor) -> None:
        """Store the mean of the round's updates, if the threat model watches it."""
        threat, tally = self._world.scenario.threat, self.tally
        if threat.view != "sum" or round_ not in threat.rounds or not tally.update_count:
            return
        clients = tuple(tally.participants)
        entry = self._observe(round_, clients, mean.clone(), tally.examples, tally.training_loss)
        self._journal.wire(replace(entry, clients=clients))

    def _observe(self, round_: int, clients: tuple[int, ...], vector: Tensor, examples: int, loss: float) -> WireEntry:
        tensors, buffers = self._world.models.layout.unflatten(vector)
        update = Update(self._world.scenario.federation.sends, tensors, buffers, examples, loss)
        earlier = {
            client: tuple((r, self._history[r]) for r in self._counted[client] if r < round_)
            for client in clients
            if client in self._counted
        }
        return WireEntry(round_, clients[0], self._weights, update, earlier=earlier)

    def _step(self, step: Tensor) -> ArrayRecord:
        """Apply the server's optimizer step, and return the new weights as an array record."""
        self._weights = apply_server_step(self._world, self._weights, step, self._optimizer_state, self.tally.round)
        self._encoded = ArrayRecord(dict(self._weights))
        return self._encoded


def pack(vector: Tensor, examples: int, loss: float) -> RecordDict:
    """Serialise an update: a flat vector as raw bytes, the number of examples, and the training loss.

    Flower's array records write and parse a file header for each array, and check each entry of three records, which
    takes as long as a small model's gradient.
    """
    data = vector.contiguous().numpy()
    entries = {VECTOR: data.tobytes(), TYPE: str(data.dtype), "examples": examples, "loss": loss}
    return RecordDict({UPDATE: ConfigRecord(entries)})


def failure_error(loss: participation.ClientFailure) -> Error:
    """Return the error reply for a simulated failure."""
    codes = {cause: code for code, cause in _CAUSES.items()}
    return Error(code=codes[loss.cause], reason=loss.why)


def unpack(message: Message, client: int) -> Reply:
    """Parse a client's message into its update or its failure."""
    if message.has_error():
        return failure_of(message, client)
    vector = sent_vector(message, _DTYPES)
    if vector is None:
        return failure_reply(client, "the update is no vector of numbers")
    entries = message.content.config_records[UPDATE]
    examples, loss = entries.get("examples"), entries.get("loss")
    if type(examples) is not int or examples < 0 or type(loss) is not float:
        return failure_reply(client, "the update needs a number of examples of at least 0, and a loss")
    return Reply(client, vector, examples, loss)


def failure_of(message: Message, client: int) -> Reply:
    """Return the failure in a client's error reply."""
    error = message.error
    return failure_reply(client, error.reason or "no reason given", _CAUSES.get(error.code, "error"))


def sent_vector(message: Message, types: Mapping[str, torch.dtype]) -> Tensor | None:
    """Return the vector of raw bytes in a message, of one of these types; None if there is none."""
    entries = message.content.config_records.get(UPDATE, ConfigRecord())
    data, dtype = entries.get(VECTOR), types.get(str(entries.get(TYPE)))
    if not isinstance(data, bytes) or not data or dtype is None or len(data) % dtype.itemsize:
        return None
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _why_diverged(scenario: Scenario, round_: int) -> str:
    """Return the learning rate at which a federation diverged, with a suggestion."""
    sends_gradients = scenario.federation.algorithm == "fedsgd"
    if sends_gradients and round_ == 1:
        return "no step was trained yet, so the first weights, the data or a component overflow. Check their scale."
    key = "aggregation.optimizer" if sends_gradients else "federation.optimizer"
    choice = scenario.aggregation.optimizer if sends_gradients else scenario.federation.optimizer
    rate = choice.settings.get("learning_rate")
    if rate is None:
        return f"lower the learning rate of {key}."
    return f"{key}.learning_rate is {rate:g}, try {rate / 10:g}."


def _unusable(reply: Reply, layout: Layout) -> Failure | None:
    if reply.vector is None:
        return None
    if reply.vector.shape != (layout.size,):
        why = f"the update has shape {tuple(reply.vector.shape)}, expected ({layout.size},)"
        return Failure(subject=f"client {reply.client}", reason=why)
    if not math.isfinite(reply.vector.sum()) and not bool(torch.isfinite(reply.vector).all()):
        return Failure(subject=f"client {reply.client}", reason="the update is not finite", cause="not finite")
    return None
