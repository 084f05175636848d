"""The server: a Flower Strategy that aggregates, and keeps the updates that the threat model watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedsim import seeding
from fedsim.errors import FedsimError
from fedsim.record import Failure
from fedsim.types import Tensors, Update, WireEntry
from fedsim.world import World


@dataclass
class Tally:
    """What the server knows of the current round."""

    cohort: tuple[int, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    training_loss: float = float("nan")


class Aggregation(Strategy):
    """FedSGD and FedAvg: new weights = old weights - server learning rate * mean update.

    Cohorts are drawn by client number from the scenario's seed, replies are added in the order of client numbers,
    and an update that is not finite is reported and left out: the result depends on neither node ids nor timing.
    """

    def __init__(self, world: World, nodes: dict[int, int], on_wire: Callable[[WireEntry], None]) -> None:
        """Take the node id of every client number, and where to put observed updates."""
        self._world = world
        self._nodes = nodes
        self._clients = {node: client for client, node in nodes.items()}
        self._on_wire = on_wire
        self._weights: Tensors = {}
        self.tally = Tally()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the weights to this round's cohort."""
        self._weights = arrays.to_torch_state_dict()
        self.tally = Tally(cohort=self._cohort(server_round))
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"round": server_round})})
        return [Message(content, dst_node_id=self._nodes[c], message_type="train") for c in self.tally.cohort]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the new weights, or None when no usable update came."""
        updates = self._usable(list(replies))
        for client in self._victims(server_round):
            if client in updates:
                self._on_wire(WireEntry(server_round, client, self._weights, updates[client]))
        if not updates:
            return None, None
        ordered = [updates[client] for client in sorted(updates)]
        self.tally.training_loss = sum(u.loss * u.examples for u in ordered) / sum(u.examples for u in ordered)
        return ArrayRecord(self._stepped(ordered)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask no client: the test set lies with the server."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing was asked, nothing is aggregated."""
        return None

    def summary(self) -> None:
        """Log nothing: the display and the record tell the story."""

    def _cohort(self, round_: int) -> tuple[int, ...]:
        settings = self._world.scenario.federation
        size = settings.cohort or settings.clients
        generator = seeding.generator(self._world.scenario.seed, "cohort", round_)
        return tuple(sorted(torch.randperm(settings.clients, generator=generator)[:size].tolist()))

    def _victims(self, round_: int) -> tuple[int, ...]:
        threat = self._world.scenario.threat
        return self.tally.cohort[: threat.victims] if round_ in threat.rounds else ()

    def _usable(self, replies: list[Message]) -> dict[int, Update]:
        updates: dict[int, Update] = {}
        for reply in sorted(replies, key=lambda reply: self._clients[reply.metadata.src_node_id]):
            client = self._clients[reply.metadata.src_node_id]
            if reply.has_error():
                self.tally.failures.append(Failure(who=f"client {client}", why=reply.error.reason or "no reason given"))
                continue
            update = unpack_update(reply.content)
            if not _is_finite(update):
                self.tally.failures.append(Failure(who=f"client {client}", why="the update is not finite"))
                continue
            updates[client] = update
        answered = {self._clients[reply.metadata.src_node_id] for reply in replies}
        self.tally.failures += [
            Failure(who=f"client {c}", why="no reply") for c in self.tally.cohort if c not in answered
        ]
        if replies and all(reply.has_error() for reply in replies):
            raise FedsimError(f"every client of the round failed, the first with: {replies[0].error.reason}")
        return updates

    def _stepped(self, updates: list[Update]) -> dict[str, Tensor]:
        settings = self._world.scenario.federation
        shares = [float(u.examples) if settings.weighted else 1.0 for u in updates]
        total = sum(shares)
        new = dict(self._weights)
        for name in updates[0].tensors:
            mean = sum(u.tensors[name] * (s / total) for u, s in zip(updates, shares, strict=True))
            new[name] = new[name] - settings.server_learning_rate * mean
        for name in updates[0].buffers:
            new[name] = new[name] - sum(u.buffers[name] * (s / total) for u, s in zip(updates, shares, strict=True))
        return new


def pack_update(update: Update) -> RecordDict:
    """Return the update as it travels."""
    return RecordDict(
        {
            "tensors": ArrayRecord(dict(update.tensors)),
            "buffers": ArrayRecord(dict(update.buffers)),
            "metrics": MetricRecord({"num-examples": update.examples, "loss": update.loss}),
            "about": ConfigRecord({"kind": update.kind}),
        }
    )


def unpack_update(content: RecordDict) -> Update:
    """Return the update that arrived."""
    metrics = content.metric_records["metrics"]
    return Update(
        kind="gradient" if content.config_records["about"]["kind"] == "gradient" else "delta",
        tensors=dict(content.array_records["tensors"].to_torch_state_dict()),
        buffers=dict(content.array_records["buffers"].to_torch_state_dict()),
        examples=cast("int", metrics["num-examples"]),
        loss=cast("float", metrics["loss"]),
    )


def _is_finite(update: Update) -> bool:
    everything = (*update.tensors.values(), *update.buffers.values())
    return all(bool(torch.isfinite(tensor).all()) for tensor in everything)
