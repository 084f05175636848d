"""A round of masked secure aggregation in this process: who falls silent, what goes over the wire, what it costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.messages import Memory
from fedsim.privacy.secure_aggregation.outcome import Aggregate
from fedsim.privacy.secure_aggregation.per_element_protocol import ConcealingClient, ConcealingServer
from fedsim.privacy.secure_aggregation.protocol import MaskingClient, UnmaskingServer

_STAGES = ConcealingClient.stages
_NUMBER_BYTES = 8  # of an entry of a vector, and of a client's number


@dataclass
class SecureRound:
    """One round of the protocol that the settings ask for. Clients live in their memory alone.

    Attributes:
        vectors: what each client uploads.
        config: settings of mode 'masked'.
        silent: who no longer answers, by the stage from which on.
        seed: of all secrets.
        number: of the round.
        wire: all that was sent: stage, client, what the server sent and what the client answered.
        client_seconds: seconds of this process in the clients.
        server_seconds: the same in the server.
    """

    vectors: Mapping[int, Tensor]
    config: SecureAggregation
    silent: Mapping[str, set[int]] = field(default_factory=dict[str, set[int]])
    seed: int = 0
    number: int = 1
    wire: list[tuple[str, int, Any, Any]] = field(default_factory=list[tuple[str, int, Any, Any]])
    client_seconds: float = 0.0
    server_seconds: float = 0.0
    _memories: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])

    def run(self) -> Aggregate:
        """Return what the server learns; raise what either side raises."""
        begin = time.process_time()
        side = ConcealingServer if self.config.least_contributors > 1 else UnmaskingServer
        aggregate = self._serve(side(self.seed, self.number, sorted(self.vectors), self.config))
        self.server_seconds += time.process_time() - begin - self.client_seconds
        return aggregate

    def _serve(self, server: UnmaskingServer) -> Aggregate:
        keys = server.introduce(self._answers("advertise", dict.fromkeys(self.vectors)))
        forwarded = server.forward(self._answers("share", keys))
        requests = server.ask(self._answers("upload", forwarded))
        revealed = self._answers("reveal", requests)
        if isinstance(server, ConcealingServer):
            openings = self._answers("open", server.count(revealed))
            revealed = self._answers("supply", server.seek(openings))
        return server.unmask(revealed)

    def receive_message(self, _stage: str, _client: int, message: Any) -> Any:
        """Return what arrives of a message of the server; a test may change it."""
        return message

    @property
    def uploads(self) -> dict[int, Tensor]:
        """The masked vector of each client that uploaded."""
        return {client: answer for stage, client, _, answer in self.wire if stage == "upload"}

    def bytes_of(self, client: int) -> tuple[int, int]:
        """Return how many bytes a client got and sent."""
        sizes = [(got, answered) for _, who, got, answered in self.wire if who == client]
        return sum(_size(got) for got, _ in sizes), sum(_size(answered) for _, answered in sizes)

    def _answers(self, stage: str, messages: Mapping[int, Any]) -> dict[int, Any]:
        gone = {c for since, who in self.silent.items() if _STAGES.index(since) <= _STAGES.index(stage) for c in who}
        return {
            client: self._answer(stage, client, self.receive_message(stage, client, message))
            for client, message in messages.items()
            if client not in gone
        }

    def _answer(self, stage: str, client: int, message: Any) -> Any:
        begin = time.process_time()
        memory = Memory.from_config(self._memories[client]) if client in self._memories else None
        kind = ConcealingClient if self.config.least_contributors > 1 else MaskingClient
        side = kind(self.seed, self.number, client, len(self.vectors), self.config, memory)
        given = () if message is None else (message,)
        answer = getattr(side, stage)(*((self.vectors[client],) if stage == "upload" else ()), *given)
        self._memories[client] = side.memory.to_config()
        self.client_seconds += time.process_time() - begin
        self.wire.append((stage, client, message, answer))
        return answer


def _size(sent: Any) -> int:
    if sent is None:
        return 0
    if isinstance(sent, Tensor):
        return _NUMBER_BYTES * len(sent)
    if isinstance(sent, bytes):
        return len(sent)
    if isinstance(sent, list):
        return sum(map(_size, sent))
    return _NUMBER_BYTES if isinstance(sent, int) else sum(map(_size, sent.to_config().values()))
