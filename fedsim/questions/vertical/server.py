"""The label party as a Flower server: the steps' messages go to the feature parties over the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.federation import engines
from fedsim.federation.apps import QUESTION, nodes_of
from fedsim.federation.server import Nodes
from fedsim.questions.vertical.client import CUT, EMBED, ROWS, STEP, pack_tensor, split_settings, unpack_tensor
from fedsim.questions.vertical.training import CutWire, SplitTraining
from fedsim.scenario.world import World

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9  # training amplifies rounding of other processors, about 1e-16

ResultT = TypeVar("ResultT")


def run_over_flower(
    world: World, check_cancelled: Callable[[], None], training: Callable[[CutWire], ResultT]
) -> ResultT:
    """Run a training with the parties as clients on the scenario's engine, and return its result.

    Args:
        world: the scenario's built objects; party i is client i.
        check_cancelled: called while an engine waits; raises KeyboardInterrupt after a stop request.
        training: called once, with the wire to the parties.

    Raises:
        FedsimError: a party did not answer, or answered with an error.
    """
    settings = split_settings(world)
    results: list[ResultT] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = nodes_of(grid, len(settings.parties))
        results.append(training(FlowerWire(grid, settings, nodes, world.scenario.participation.timeout)))

    engines.serve(world, server, len(settings.parties), check_cancelled)
    return results[0]


class FlowerWire(CutWire):
    """Sends two messages per step to each party: a request for activations, and the returned gradients."""

    def __init__(self, grid: Grid, settings: SplitTraining, nodes: Nodes, timeout: float) -> None:
        """Map parties to nodes.

        Args:
            grid: Flower's grid.
            settings: the parties, and whether each party receives all gradients.
            nodes: node id of each party, by index.
            timeout: time limit of an answer in seconds.
        """
        self._grid, self._timeout = grid, timeout
        self._nodes = {party.name: nodes[number] for number, party in enumerate(settings.parties)}
        self._broadcast = settings.broadcast

    def embed(self, rows: Tensor, number: int, replayed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Request the parties' activations.

        Raises:
            FedsimError: a party's activations differ from the replay in this process, so that the ground truth would be
                unknown; or a party does not answer.
        """
        step = {STEP: ConfigRecord({"number": number}), ROWS: pack_tensor(rows)}
        answers = self._ask("query", EMBED, {name: RecordDict(dict(step)) for name in self._nodes})
        sent = {name: unpack_tensor(answers[name]) for name in replayed}
        for name, vectors in sent.items():
            if not _are_close(vectors, replayed[name]):
                raise FedsimError(
                    f"party '{name}' sends other vectors than its part of the data and the seed give. Install the same "
                    "fedsim, torch and data at its node as here."
                )
        return sent

    def cut(self, gradients: Mapping[str, Tensor]) -> None:
        """Send the gradients back.

        Raises:
            FedsimError: a party does not answer.
        """
        packed_gradients = {name: pack_tensor(gradient) for name, gradient in gradients.items()}
        contents = {
            name: RecordDict(dict(packed_gradients) if self._broadcast else {name: packed_gradients[name]})
            for name in packed_gradients
        }
        self._ask("train", CUT, contents)

    def _ask(self, category: str, step: str, contents: Mapping[str, RecordDict]) -> dict[str, RecordDict]:
        """Send a message to each party, and return the contents of the replies by party name."""
        call = ConfigRecord({"name": "vertical", "step": step})
        messages = [
            Message(
                RecordDict({**content, QUESTION: call}),
                dst_node_id=self._nodes[name],
                message_type=f"{category}.{QUESTION}",
            )
            for name, content in contents.items()
        ]
        replies = {
            reply.metadata.src_node_id: reply for reply in self._grid.send_and_receive(messages, timeout=self._timeout)
        }
        answers: dict[str, RecordDict] = {}
        for name in contents:
            reply = replies.get(self._nodes[name])
            if reply is None:
                raise FedsimError(
                    f"party '{name}' did not answer within {self._timeout:g} seconds. Look at its node, or raise "
                    "participation.timeout."
                )
            if reply.has_error():
                raise FedsimError(f"party '{name}' cannot answer: {reply.error.reason}")
            answers[name] = reply.content
        return answers


def _are_close(sent: Tensor, replayed: Tensor) -> bool:
    return sent.shape == replayed.shape and torch.allclose(sent, replayed, _RELATIVE, _ABSOLUTE)
