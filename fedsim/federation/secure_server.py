"""Server side of secure aggregation: it learns a round's sum and participants, but no single update.

In ideal mode the uploads go to a trusted party. In masked mode the protocol exchanges keys and shares by query messages
before the weights are sent, and unmasks the sum by query messages after the uploads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Generic, TypeVar, cast, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Contribution
from fedsim.federation.journal import ServerLog
from fedsim.federation.secure_client import (
    PROTOCOL,
    ROUND,
    Sent,
    Stage,
    as_record,
    check_largest_sum,
    examples_behind,
    mean_of,
    secure_settings,
)
from fedsim.federation.server import (
    AggregationStrategy,
    Nodes,
    Reply,
    RoundMessages,
    failure_of,
    failure_reply,
    sent_vector,
    silent,
)
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.messages import Opening, PublicKeys, RevealedShares, SealedShares
from fedsim.privacy.secure_aggregation.outcome import Aborted, Aggregate, check_cohort
from fedsim.privacy.secure_aggregation.per_element import ALWAYS_TOLD, Disclosed
from fedsim.privacy.secure_aggregation.per_element_protocol import ConcealingServer
from fedsim.privacy.secure_aggregation.protocol import UnmaskingServer
from fedsim.privacy.secure_aggregation.ring import check_element
from fedsim.record import Failure
from fedsim.scenario.world import World

Uploads = Iterable[tuple[int, Tensor]]
_Server = TypeVar("_Server", bound=UnmaskingServer)
_Answer = TypeVar("_Answer")
_TYPES = {"int32": torch.int32, "int64": torch.int64}


class SecureSum(AggregationStrategy):
    """Applies the rule's step to the mean of a round's updates; a round below the threshold changes nothing."""

    def __init__(self, world: World, nodes: Nodes, journal: ServerLog) -> None:
        """Set world, node ids by client number, and journal.

        Raises:
            ScenarioError: the largest total weight of a round does not fit the modulus.
        """
        super().__init__(world, nodes, journal)
        check_largest_sum(world)
        self._adder: _Adder | None = None
        self._lost: dict[int, Failure] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Prepare the sum, and send the weights to the clients that can take part in it."""
        orders = cast("RoundMessages", super().configure_train(server_round, arrays, config, grid))
        self._lost = {}
        try:
            check_cohort(len(orders.cohort))
            self._adder = self._new_adder(orders, grid)
            return self._adder.orders()
        except Aborted as error:
            self._abort(error)
            return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new weights, or None for an aborted round."""
        if self._adder is None:
            return None, None
        try:
            aggregate = self._adder.total(self._uploads(server_round, self._adder.expected_clients, replies))
            mean, weight, loss = self._mean(aggregate)
        except Aborted as error:
            self._abort(error)
            return None, None
        self._settle()
        self.tally.participants = list(aggregate.participants)
        self.tally.examples = examples_behind(self._world, server_round, aggregate.participants, weight)
        self.tally.weight, self.tally.loss = weight, loss * weight
        self._watch_sum(server_round, mean)
        for client in aggregate.participants:
            self._note_counted(server_round, client)
        step = self._rule.combine(
            [Contribution(aggregate.participants[0], mean, weight)], self._world.server_round(server_round)
        )
        return self._step(step), None

    def _new_adder(self, orders: RoundMessages, grid: Grid) -> _Adder:
        if secure_settings(self._world).mode == "ideal":
            return _TrustedParty(self._world, orders)
        side = _MaskedSum if secure_settings(self._world).least_contributors == 1 else _ConcealedSum
        return side(self._world, orders, grid, lambda reply: self._lose(orders.round, reply))

    def _mean(self, aggregate: Aggregate) -> tuple[Tensor, int, float]:
        try:
            return mean_of(self._world, Disclosed(aggregate.total, aggregate.disclosed_mask))
        except FedsimError as error:
            raise Aborted(f"a client's upload is no update, and the masks hide which client: {error}") from error

    def _uploads(
        self, round_: int, expected: tuple[int, ...], replies: Iterable[Message]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each client's first upload as it arrives, for the adder only, and record failures."""
        clients = {self._nodes[client]: client for client in expected}
        missing = set(expected)
        for message in replies:
            reply = message if isinstance(message, Reply) else self._upload(message, clients)
            if reply is None or reply.client not in missing:
                continue
            missing.discard(reply.client)
            if reply.vector is None:
                self._lose(round_, reply)
            else:
                yield reply.client, reply.vector
        for client in missing:
            self._lose(round_, silent(client))

    def _upload(self, message: Message, clients: Mapping[int, int]) -> Reply | None:
        """Return a client's upload or failure; None for a node outside the round."""
        client = clients.get(message.metadata.src_node_id)
        if client is None:
            return None
        if message.has_error():
            return failure_of(message, client)
        vector, settings = sent_vector(message, _TYPES), secure_settings(self._world)
        size = self._world.models.layout.size
        expected = ALWAYS_TOLD + (size if settings.least_contributors == 1 else 2 * size)
        if vector is None or vector.shape != (expected,):
            return failure_reply(client, f"the upload is no vector of {expected} integers")
        try:
            check_element(vector, settings.modulus_bits)
        except FedsimError as error:
            return failure_reply(client, str(error))
        return Reply(client, vector)

    def _lose(self, round_: int, reply: Reply) -> None:
        self._lost[reply.client] = self._failure(round_, reply) or Failure(
            subject=f"client {reply.client}", reason="no upload"
        )

    def _settle(self) -> None:
        if self._adder is not None:
            self._lost |= {
                c: Failure(subject=f"client {c}", reason=why) for c, why in self._adder.rejection_reasons.items()
            }
        self.tally.failures = [self._lost[client] for client in sorted(self._lost)]

    def _abort(self, error: Aborted) -> None:
        """Abort the round with unchanged weights; raise if every client failed with an undeclared error."""
        self._settle()
        self._adder = None
        if len(self._lost) == len(self.tally.cohort):
            self._check_failures()
        self.tally.failures.append(Failure(subject="round", reason=str(error), cause="aborted"))


class _Adder(ABC):
    """Computes the sum of a round's uploads.

    Attributes:
        expected_clients: clients that are requested to upload, set by `orders`.
        rejection_reasons: by client: reason for which an answer of the protocol was rejected.
    """

    expected_clients: tuple[int, ...]
    rejection_reasons: Mapping[int, str]

    @abstractmethod
    def orders(self) -> Iterable[Message]:
        """Return the messages that request uploads."""

    @abstractmethod
    def total(self, uploads: Uploads) -> Aggregate:
        """Return the sum of the uploads; raise Aborted if there are too few."""


@final
class _TrustedParty(_Adder):
    """The ideal functionality: returns the sum of the uploads."""

    def __init__(self, world: World, orders: RoundMessages) -> None:
        self._settings = secure_settings(world)
        self._orders = orders
        self.expected_clients = orders.cohort
        self.rejection_reasons = {}

    def orders(self) -> Iterable[Message]:
        return self._orders

    def total(self, uploads: Uploads) -> Aggregate:
        return ideal_aggregate(uploads, len(self._orders.cohort), self._settings)


class _Masked(_Adder, Generic[_Server]):
    """Runs the server's side of the protocol over a grid."""

    _server_type: type[_Server]

    def __init__(self, world: World, orders: RoundMessages, grid: Grid, lose: Callable[[Reply], None]) -> None:
        """Set world, orders and grid; `lose` is called when a client fails before its upload."""
        self._server = self._server_type(world.scenario.seed, orders.round, orders.cohort, secure_settings(world))
        self._timeout = world.scenario.participation.timeout
        self._orders = orders
        self._grid = grid
        self._lose = lose
        self._where = ConfigRecord({"round": orders.round, "cohort": len(orders.cohort)})
        self.rejection_reasons = self._server.rejected

    def orders(self) -> Iterable[Message]:
        everybody = dict.fromkeys(self._orders.cohort)
        keys = self._server.introduce(self._exchange("advertise", everybody, self._lose, PublicKeys.from_config))
        shared = self._exchange("share", keys, self._lose, SealedShares.from_config)
        forwarded = self._server.forward(shared)
        self.expected_clients = tuple(forwarded)
        return self._with_shares(forwarded)

    def _reveal_shares(self, uploads: Uploads) -> dict[int, RevealedShares]:
        return self._ask_survivors("reveal", self._server.ask(dict(uploads)), RevealedShares.from_config)

    def _ask_survivors(
        self, stage: Stage, messages: Mapping[int, Sent], read: Callable[[ConfigRecord], _Answer]
    ) -> dict[int, _Answer]:
        # An uploaded vector is in the sum, even if its client reveals nothing.
        return self._exchange(stage, messages, lambda _reply: None, read)

    def _with_shares(self, forwarded: Mapping[int, Sent]) -> Iterator[Message]:
        orders = replace(self._orders, cohort=self.expected_clients)
        for message, shares in zip(orders, forwarded.values(), strict=True):
            message.content.config_records[ROUND]["cohort"] = len(self._orders.cohort)
            message.content[PROTOCOL] = as_record(shares)
            yield message

    def _exchange(
        self,
        stage: Stage,
        messages: Mapping[int, Sent | None],
        lose: Callable[[Reply], None],
        read: Callable[[ConfigRecord], _Answer],
    ) -> dict[int, _Answer]:
        """Send each client its message, and return the first parsed answers, sorted by client number."""
        nodes = {self._orders.nodes[client]: client for client in messages}
        sent = [self._message(stage, client, message) for client, message in messages.items()]
        answers: dict[int, _Answer] = {}
        missing = set(messages)
        for message in self._grid.send_and_receive(sent, timeout=self._timeout):
            client = nodes.get(message.metadata.src_node_id)
            if client is None or client not in missing:
                continue
            missing.discard(client)
            if message.has_error():
                lose(failure_of(message, client))
                continue
            try:
                answers[client] = read(message.content.config_records.get(PROTOCOL, ConfigRecord()))
            except FedsimError as error:
                self._server.rejected[client] = f"its answer to '{stage}' cannot be read: {error}"
        for client in missing:
            lose(silent(client))
        return dict(sorted(answers.items()))

    def _message(self, stage: Stage, client: int, message: Sent | None) -> Message:
        content = RecordDict({ROUND: ConfigRecord(dict(self._where))})
        if message is not None:
            content[PROTOCOL] = as_record(message)
        return Message(content, dst_node_id=self._orders.nodes[client], message_type=f"query.{stage}")


@final
class _MaskedSum(_Masked[UnmaskingServer]):
    """The sum of all elements."""

    _server_type = UnmaskingServer

    def total(self, uploads: Uploads) -> Aggregate:
        return self._server.unmask(self._reveal_shares(uploads))


@final
class _ConcealedSum(_Masked[ConcealingServer]):
    """The sum of the elements with enough contributors."""

    _server_type = ConcealingServer

    def total(self, uploads: Uploads) -> Aggregate:
        opened = self._ask_survivors("open", self._server.count(self._reveal_shares(uploads)), Opening.from_config)
        silent = self._server.seek(opened)
        return self._server.unmask(self._ask_survivors("supply", silent, RevealedShares.from_config) if silent else {})
