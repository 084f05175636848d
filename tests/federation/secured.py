"""Federations behind secure aggregation."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from fedsim.federation import apps
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.journal import ServerLog
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

SUM = {"view": "sum"}


def plain(scenario: Scenario) -> Scenario:
    return scenario.model_copy(update={"secure_aggregation": None})


def failures(journal: ServerLog) -> list[tuple[int, str, str]]:
    return [(record.round, lost.subject, lost.cause) for record in journal.rounds for lost in record.failures]


@dataclass
class Tapped(LocalGrid):
    """A grid that keeps a copy of every reply, as somebody on the wire would."""

    scenario: Scenario
    replies: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = worlds.build(self.scenario)
        super().__init__(apps.client_app(lambda _: self.world), self.scenario.federation.clients, {})

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.replies.append(reply)
            yield reply

    def uploads(self) -> list[Message]:
        return [reply for reply in self.replies if reply.metadata.message_type == "train" and not reply.has_error()]


def tapped(scenario: Scenario) -> Tapped:
    grid = Tapped(scenario)
    grid.serve(apps.server_app(grid.world, ServerLog(lambda _record: None)))
    return grid


POISSON: dict[str, Any] = {"clients": 6, "sampling": "poisson", "batch_size": 5}
