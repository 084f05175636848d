"""One round of an app, as its server sees it, beside what trained in its clients. Imported when an app is audited."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch import Tensor

from fedsim.audit.adapters._watching import WatchedClient, watching
from fedsim.core.errors import FedsimError, in_a_line
from fedsim.federation.engines.local import LocalGrid

_CLIENTS = 2  # whose replies are awaited: the first is attacked, the other's examples are test data
_MOST = 1000  # clients that a server may wait for
_PATIENT_POLLS = 2  # a server may ask once to tell how many there are, and once to choose
_TRAIN, _EXAMPLES = "train", "num-examples"


class AnsweredTraining(NamedTuple):
    """A client that trained: its node, the arrays it received and sent, the examples it states, and its training."""

    node: int
    received: dict[str, Tensor]
    sent: dict[str, Tensor]
    examples: int | None
    training: WatchedClient


class _RoundIsOver(BaseException):
    """Enough clients answered. Not an `Exception`, so that an app which catches all errors does not catch it."""


class _OneRoundGrid(LocalGrid):
    """Keeps what the first clients receive, do and send, and ends the server's work then.

    Older servers call clients from threads, and take what is raised there for a client's failure. So clients train one
    after the other, and what went wrong is kept.
    """

    def __init__(self, client_app: ClientApp, run_config: Mapping[str, Any], name: str) -> None:
        super().__init__(client_app, _CLIENTS, run_config)
        self._name = name
        self._polls = 0
        self._has_asked = False
        self._one_by_one = threading.Lock()
        self.answered: list[AnsweredTraining] = []
        self.failure: FedsimError | None = None

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids; twice as many as before where the server waits for more."""
        self._polls += 1
        if self._polls > _PATIENT_POLLS and not self._has_asked:
            self._clients *= 2
        if self._clients > _MOST:
            self.failure = FedsimError(
                f"the ServerApp of '{self._name}' waits for more than {_MOST} clients. Lower min_available_nodes of "
                "its strategy for the audit."
            )
            raise self.failure
        return super().get_node_ids()

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type.partition(".")[0] != _TRAIN:
            return super()._answer(message)
        self._has_asked = True
        with self._one_by_one:
            if self.failure is not None or len(self.answered) == _CLIENTS:
                raise _RoundIsOver
            try:
                reply = self._train(message)
            except FedsimError as error:
                self.failure = error
                raise
        if len(self.answered) == _CLIENTS:
            raise _RoundIsOver
        return reply

    def _train(self, message: Message) -> Message:
        received = _arrays(message, f"the first message of the ServerApp of '{self._name}'")
        with watching() as training:
            reply = super()._answer(message)
        if reply.has_error():
            why = " ".join(str(reply.error.reason).split())
            raise FedsimError(
                f"the ClientApp of '{self._name}' failed: {why}. Try `flwr run` first: the audit starts it in "
                "the same way."
            )
        sent = _arrays(reply, f"the reply of the ClientApp of '{self._name}'")
        self.answered.append(AnsweredTraining(message.metadata.dst_node_id, received, sent, _stated(reply), training))
        return reply


def first_round(client: ClientApp, server: ServerApp, config: Mapping[str, Any], name: str) -> list[AnsweredTraining]:
    """Have a server run until clients have answered what it asked them to train, at least one.

    Raises:
        FedsimError: an app fails, or the server asks for no training, or waits for too many clients.
    """
    grid, error = _OneRoundGrid(client, config, name), None
    try:
        grid.serve(server)
    except _RoundIsOver:
        pass
    except Exception as raised:
        error = raised
    if grid.failure is not None:
        raise grid.failure
    if grid.answered:
        return sorted(grid.answered, key=lambda one: one.node)
    if error is not None:
        raise FedsimError(
            f"the ServerApp of '{name}' failed: {type(error).__name__}: {in_a_line(error).rstrip('.')}. Try `flwr run` "
            "first: the audit starts it in the same way."
        ) from error
    raise FedsimError(
        f"the ServerApp of '{name}' ended without a message that asks a client to train, expected one of type 'train' "
        "as strategies of flwr.serverapp send."
    )


def _arrays(message: Message, whose: str) -> dict[str, Tensor]:
    """Return the only array record of a message as tensors; Flower reads them without unpickling."""
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise FedsimError(f"{whose} holds {len(records)} array records, expected one with the weights of the model.")
    return dict(records[0].to_torch_state_dict())


def _stated(reply: Message) -> int | None:
    """Return on how many examples a client says that it trained."""
    for metrics in reply.content.metric_records.values():
        if isinstance(stated := metrics.get(_EXAMPLES), int):
            return stated
    return None
