"""The default engine: calls the ClientApp in this process. No Ray, no polling, no topology.

It implements Flower's Grid interface by plain calls, so the same apps run here and on real nodes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.core.foreign.flower.in_process import Run, TaskIdentity
from fedsim.core.foreign.flower.messages import message_with
from fedsim.federation import apps
from fedsim.federation.engines._pool import RUN_ID, Pool
from fedsim.federation.engines.worker import answer
from fedsim.federation.server import RoundMessages
from fedsim.scenario.world import World

_WORTH_A_PROCESS = 0.05


class LocalGrid(Grid):
    """Calls the ClientApp for every message in sequence.

    Replies to fedsim's own server are generated lazily, so memory holds a single reply. A client's state is committed
    only after a reply: changes before an exception are discarded.

    With several workers, and after a client's round took longer than 50 ms, clients run in worker processes. Their
    replies depend only on their messages and state, and keep their order, so results are equal bit by bit.
    """

    def __init__(self, client_app: ClientApp, clients: int, run_config: Mapping[str, Any], workers: int = 1) -> None:
        """Assign node id i + 1 to client i."""
        self._app = client_app
        self._clients = clients
        self._run_config = run_config
        self._state: dict[int, RecordDict] = {}
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run = Run.create_empty(run_id=RUN_ID)
        self._pool = Pool(workers)
        self._durations: list[float] = []
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = RUN_ID

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    @property
    def nodes(self) -> range:
        """The node id of every client number."""
        return range(1, self._clients + 1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids in the order of client numbers."""
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run every message's client call, and return the message ids for `pull_messages`."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies, each once."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the reply to every message in order; calls are synchronous, so `timeout` has no effect."""
        replies = self._time(iter(messages)) if self._pool.workers > 1 else map(self._answer, messages)
        return (
            replies if isinstance(messages, RoundMessages) else list(replies)
        )  # Flower's own workflows iterate over the replies twice

    def serve(self, server_app: ServerApp) -> None:
        """Run the ServerApp."""
        context = Context(
            run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(self._run_config)
        )
        try:
            server_app(self, context)
        finally:
            self._pool.close()

    def _time(self, messages: Iterator[Message]) -> Iterator[Message]:
        for message in messages:
            begin = time.perf_counter()
            yield self._answer(message)
            self._durations = [*self._durations[-1:], time.perf_counter() - begin]
            if min(self._durations) > _WORTH_A_PROCESS and len(self._durations) > 1:
                break
        calls = ((self._deliver(message), self._context(message.metadata.dst_node_id)) for message in messages)
        for reply, node, state in self._pool.answers(calls):
            yield self._commit(reply, node, state)

    def _push(self, message: Message) -> str:
        reply = self._answer(message)
        self._replies[message.metadata.message_id] = reply
        return message.metadata.message_id

    def _answer(self, message: Message) -> Message:
        context = self._context(message.metadata.dst_node_id)
        reply = answer(self._app, self._deliver(message), context)
        return self._commit(reply, context.node_id, context.state)

    def _deliver(self, message: Message) -> Message:
        """Return the message with copied records, because mods may remove records from received messages."""
        self._number(message)
        content = RecordDict({key: record.copy() for key, record in message.content.items()})
        return message_with(content, message.metadata)

    def _commit(self, reply: Message, node: int, state: RecordDict) -> Message:
        if state:
            self._state[node] = state
        self._number(reply)
        return reply

    def _number(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = str(next(self._numbers))

    def _context(self, node: int) -> Context:
        return Context(
            run_id=RUN_ID,
            node_id=node,
            node_config={"partition-id": node - 1, "num-partitions": self._clients},
            state=self._state.get(node) or RecordDict(),
            run_config=dict(self._run_config),
        )


def serve(world: World, server: ServerApp, nodes: int) -> None:
    """Run a ServerApp on this machine, with clients in sequence or in worker processes."""
    run_config = {apps.SCENARIO_KEY: world.scenario.model_dump_json()}
    grid = LocalGrid(apps.client_app(lambda _: world), nodes, run_config, world.scenario.federation.workers)
    grid.serve(server)
