"""A single round of a Flower app as its server sees it, with the observed training of its clients.

Imported only when an app is audited.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from torch import Tensor

from fedsim.audit.adapters._watching import WatchedClient, watch_training
from fedsim.core.errors import FedsimError, first_line
from fedsim.federation.engines.local import LocalGrid

_CLIENTS = 2  # replies to await: the first is attacked, the second client's examples are test data
_MOST = 1000  # largest number of clients that a server may require
_PATIENT_POLLS = 2  # a server may query the nodes once to count and once to sample
_TRAIN, _EXAMPLES = "train", "num-examples"


class AnsweredTraining(NamedTuple):
    """A client that trained: node, received and sent arrays, stated number of examples, and observed training."""

    node: int
    received_arrays: dict[str, Tensor]
    sent_arrays: dict[str, Tensor]
    examples: int | None
    training: WatchedClient


class _RoundIsOver(BaseException):
    """Enough clients replied. Not an `Exception`, so that an app which catches all errors does not catch it."""


class _OneRoundGrid(LocalGrid):
    """Grid that records received arrays, training and reply of the first clients, then ends the server's work.

    Older servers call clients from threads and treat exceptions in them as client failures. Therefore clients train
    sequentially, and the grid stores the failure.
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
        """Return the node ids; the number doubles while the server waits for more clients."""
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
        with watch_training() as training:
            reply = super()._answer(message)
        if reply.has_error():
            why = " ".join(str(reply.error.reason).split())
            raise FedsimError(
                f"the ClientApp of '{self._name}' failed: {why}. Try `flwr run` first: the audit starts it in "
                "the same way."
            )
        sent = _arrays(reply, f"the reply of the ClientApp of '{self._name}'")
        self.answered.append(
            AnsweredTraining(message.metadata.dst_node_id, received, sent, _read_example_count(reply), training)
        )
        return reply


def first_round(client: ClientApp, server: ServerApp, config: Mapping[str, Any], name: str) -> list[AnsweredTraining]:
    """Run a server until clients have replied to its first training messages, and return the trained clients.

    Raises:
        FedsimError: an app fails, the server requests no training, or it waits for too many clients.
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
        return sorted(grid.answered, key=lambda app: app.node)
    if error is not None:
        raise FedsimError(
            f"the ServerApp of '{name}' failed: {type(error).__name__}: {first_line(error).rstrip('.')}. Try `flwr "
            "run` first: the audit starts it in the same way."
        ) from error
    raise FedsimError(
        f"the ServerApp of '{name}' ended without a training request, expected a message of "
        "type 'train', as strategies of flwr.serverapp send."
    )


def _arrays(message: Message, owner: str) -> dict[str, Tensor]:
    """Return the only array record of a message as tensors; Flower reads them without unpickling."""
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise FedsimError(
            f"{owner} holds {len(records)} array records, expected a single record with the model's weights."
        )
    return dict(records[0].to_torch_state_dict())


def _read_example_count(reply: Message) -> int | None:
    """Return the number of training examples that a client states in its reply."""
    for metrics in reply.content.metric_records.values():
        if isinstance(stated := metrics.get(_EXAMPLES), int):
            return stated
    return None
