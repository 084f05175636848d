"""The default engine: the ClientApp is called in this process. No Ray, no polling, no topology.

It is Flower's Grid interface over plain calls, so the same apps run here and on real nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsim.errors import told

_CLIENT_FAILED = 2
_RUN_ID = 1


class LocalGrid(Grid):
    """Calls the ClientApp for every message, one after the other.

    Replies come one by one, each computed when it is asked for, so a server that adds them up needs no memory for
    the others. A client's context is committed only when it answered: what an exception left half-done is forgotten.
    """

    def __init__(self, client_app: ClientApp, clients: int, run_config: dict[str, str]) -> None:
        """Give client i the node id i + 1."""
        self._app = client_app
        self._clients = clients
        self._run_config = run_config
        self._state: dict[int, RecordDict] = {}
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run = Run.create_empty(run_id=_RUN_ID)
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN_ID

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids in the order of client numbers."""
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have every message answered, and return the ids to pull the replies with."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies, each once."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Yield the reply to every message in turn; calls are synchronous, so `timeout` has no effect."""
        return map(self._answer, messages)

    @property
    def nodes(self) -> range:
        """The node id of every client number."""
        return range(1, self._clients + 1)

    def _push(self, message: Message) -> str:
        reply = self._answer(message)
        self._replies[message.metadata.message_id] = reply
        return message.metadata.message_id

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        self._number(message)
        context = self._context(node)
        # Mods may take records out of what they receive: every client gets records of its own.
        content = RecordDict({key: record.copy() for key, record in message.content.items()})
        try:
            # The overload that keeps the metadata is not among Flower's declared ones.
            own = Message(content, metadata=message.metadata)  # pyright: ignore[reportCallIssue]
            reply = self._app(message=own, context=context)
            self._state[node] = context.state
        except Exception as error:
            reply = Message(Error(code=_CLIENT_FAILED, reason=told(error)), reply_to=message)
        self._number(reply)
        return reply

    def _number(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = str(next(self._numbers))

    def _context(self, node: int) -> Context:
        state = self._state.get(node, RecordDict())
        return Context(
            run_id=_RUN_ID,
            node_id=node,
            node_config={"partition-id": node - 1, "num-partitions": self._clients},
            state=RecordDict({key: record.copy() for key, record in state.items()}),
            run_config=dict(self._run_config),
        )


def run(server_app: ServerApp, client_app: ClientApp, clients: int, run_config: dict[str, str]) -> None:
    """Run the federation to its end in this process."""
    grid = LocalGrid(client_app, clients, run_config)
    context = Context(run_id=_RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config))
    server_app(grid=grid, context=context)
