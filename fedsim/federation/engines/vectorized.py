"""The fast engine for small models: a cohort's local training is a single batched computation, without messages.

The ServerApp is the same as on every engine. Between its orders and the replies, clients are trained together instead
of by ClientApp calls. Results equal the local engine's up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from flwr.app import Message, RecordDict
from torch import Tensor

from fedsim.core.types import Memory
from fedsim.federation import apps, participation, secure_client
from fedsim.federation.client import looks_first, refusal
from fedsim.federation.cohort import cohort_training
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.journal import ServerLog
from fedsim.federation.memory import recall, remember
from fedsim.federation.server import Reply, RoundMessages, failure_reply
from fedsim.privacy.history import spend
from fedsim.scenario.world import World

_MOST_CLIENTS = 256
_MOST_VALUES = 1 << 24


class VectorizedGrid(LocalGrid):
    """Trains the clients of a round in chunks, so that memory does not grow with the cohort."""

    def __init__(self, world: World) -> None:
        """Set the world of all clients."""
        super().__init__(apps.client_app(lambda _: world), world.scenario.federation.clients, {})
        self._world = world

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yield the reply to every message in order; a round's orders are answered without messages."""
        if not isinstance(messages, RoundMessages):
            return super().send_and_receive(messages, timeout=timeout)
        return cast("Iterable[Message]", self._replies_to(messages))

    def _replies_to(self, orders: RoundMessages) -> Iterator[Reply]:
        clients_at_once = max(1, min(_MOST_CLIENTS, _MOST_VALUES // max(1, self._world.models.layout.size)))
        for start in range(0, len(orders.cohort), clients_at_once):
            yield from self._train(orders, orders.cohort[start : start + clients_at_once])

    def _train(self, orders: RoundMessages, clients: Sequence[int]) -> Iterator[Reply]:
        world, scenario = self._world, self._world.scenario
        fates = participation.client_failures(scenario, orders.round, clients, world.data.steps)
        expected = [client for client in clients if fates[client] is None]
        known = dict(zip(expected, self._recall(expected, orders.last_counted_rounds), strict=True))
        if looks_first(world):
            for client, memory in known.items():
                why = refusal(world, orders.weights, orders.round, client, memory)
                fates[client] = None if why is None else participation.refusal_failure(why)
        present = [client for client in expected if fates[client] is None]
        memories = [known[client] for client in present]
        self._spend(fates)
        trained = cohort_training(world, orders.weights, orders.round, present, memories) if present else None
        if world.facts.keeps_state:
            for client, memory in zip(present, memories, strict=True):
                remember(self._state[client], orders.round, memory)
        rows = iter(trained.rows() if trained else ())
        for client, fate in fates.items():
            if fate is None:
                yield self._reply(orders.round, client, *next(rows))
            else:
                yield failure_reply(client, fate.why, fate.cause)

    def _spend(self, fates: Mapping[int, participation.ClientFailure | None]) -> None:
        """Record the privacy cost in the state of every client that trained, in time or not."""
        if not self._world.facts.client_mechanisms:
            return
        for client, fate in fates.items():
            if fate is None or not (fate.is_absent or fate.cause == "crash"):
                spend(self._state.setdefault(client, RecordDict()), self._world.facts.client_mechanisms)

    def _reply(self, round_: int, client: int, vector: Tensor, examples: int, loss: float) -> Reply:
        """Return the client's reply: its update, or for secure aggregation its summand."""
        if self._world.scenario.secure_aggregation is None:
            return Reply(client, vector, examples, loss)
        summand = secure_client.summand(self._world, vector, examples, loss, round_, client)
        if summand is not None:
            return Reply(client, summand)
        why = secure_client.NOT_FINITE
        return failure_reply(client, why.why, why.cause)

    def _recall(self, clients: Sequence[int], counted: Mapping[int, int]) -> list[Memory]:
        if not self._world.facts.keeps_state:
            return [{} for _ in clients]
        return [recall(self._state.setdefault(c, RecordDict()), counted.get(c, 0)) for c in clients]


def run(world: World, journal: ServerLog) -> None:
    """Run the federation in this process, with batched training."""
    VectorizedGrid(world).serve(apps.server_app(world, journal))
