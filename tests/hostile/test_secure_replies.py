"""A client that answers the masked protocol with anything at all: its own part is lost, and the round goes on."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedsim.experiment.runner import model_hash
from fedsim.federation import apps
from fedsim.federation.journal import ServerLog
from fedsim.federation.secure_client import PROTOCOL
from fedsim.federation.server import TYPE, UPDATE, VECTOR
from fedsim.scenario import Scenario
from tests.experiment.running import Build
from tests.federation.secured import SUM, Tapped

STAGES = ("query.advertise", "query.share", "train", "query.reveal", "query.open", "query.supply")
LIAR, SILENT, NODES = 1, 4, 5
Forge = Callable[[Message], list[Message]]


@dataclass
class Forged(Tapped):
    """A wire on which one client's first answer to a stage is another one, and client 4 opens nothing in round 1."""

    stage: str = ""
    forge: Forge = lambda reply: [reply]
    is_open_lost: bool = False
    seen: list[Message] = field(default_factory=list)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [told for reply in super().send_and_receive(messages, timeout=timeout) for told in self._told(reply)]

    def _told(self, reply: Message) -> list[Message]:
        kind, client = reply.metadata.message_type, reply.metadata.src_node_id - 1
        if self.is_open_lost and (kind, client) == ("query.open", SILENT):
            self.is_open_lost = False
            return []
        if (kind, client) == (self.stage, LIAR) and not self.seen:
            self.seen.append(reply)
            return self.forge(reply)
        return [reply]


def scenario_of(scenario: Build) -> Scenario:
    return scenario(
        model={"name": "mlp", "width": 4, "depth": 1, "dropout": 0.0},
        federation={"algorithm": "fedsgd", "clients": NODES, "rounds": 2, "batch_size": 2},
        threat={**SUM, "rounds": [2]},
        secure_aggregation={"mode": "masked", "threshold": 0.6, "least_contributors": 2},
    )


def ran(built: Scenario, stage: str, forge: Forge) -> ServerLog:
    grid, journal = Forged(built, stage=stage, forge=forge, is_open_lost=True), ServerLog(lambda _record: None)
    grid.serve(apps.server_app(grid.world, journal))
    assert len(grid.seen) == 1
    return journal


def holding(reply: Message, records: dict[str, Any]) -> list[Message]:
    """The reply with other records, from the same node."""
    # The overload that keeps the metadata is not among Flower's declared ones.
    return [Message(RecordDict(records), metadata=reply.metadata)]  # pyright: ignore[reportCallIssue]


def name_of(stage: str) -> str:
    return UPDATE if stage == "train" else PROTOCOL


def lost(reply: Message) -> list[Message]:
    return [Message(Error(2, "gone"), metadata=reply.metadata)]  # pyright: ignore[reportCallIssue]


def other_records(stage: str) -> Iterator[dict[str, Any]]:
    """Records in place of the right one."""
    name = name_of(stage)
    yield {}
    yield {name: ConfigRecord()}
    yield {name: ArrayRecord({"update": torch.full((3,), math.nan)})}
    yield {name: MetricRecord({"update": math.nan})}
    yield {f"{name} ": ConfigRecord({"client": LIAR})}


def other_entries(value: Any) -> Iterator[Any]:
    """Values of the wrong type, shape or length in place of one entry."""
    yield from (None, -1, 2**62, math.nan, "", b"", [], [b""], [math.nan])
    if isinstance(value, bytes):
        yield from (value[:-1], value + b"\0", value[:8], value * 2)
    if isinstance(value, list):
        more = b"\0" * 32 if value and isinstance(value[0], bytes) else 99
        yield from (value[:-1], value + value[:1], [*value, more], [99] * len(value))
        yield [entry[:-1] if isinstance(entry, bytes) else entry + 17 for entry in value]


def forgeries(stage: str, right: ConfigRecord) -> Iterator[dict[str, Any]]:
    """All records that are no answer to a stage, given the right answer."""
    yield from other_records(stage)
    for key, value in right.items():
        for other in other_entries(value):
            if other == value:
                continue
            entries = {**right, key: other}
            if other is None:
                del entries[key]
            yield {name_of(stage): ConfigRecord(entries)}


def right_answer(built: Scenario, stage: str) -> ConfigRecord:
    answers: list[ConfigRecord] = []

    def noted(reply: Message) -> list[Message]:
        answers.append(reply.content.config_records[name_of(stage)])
        return [reply]

    ran(built, stage, noted)
    return answers[0]


def failures_of(journal: ServerLog, round_: int) -> list[str]:
    return [failure.subject for failure in journal.rounds[round_ - 1].failures]


def check_forgeries(built: Scenario, stage: str, sample: int | None) -> None:
    """Each forgery costs what silence costs, and is the liar's failure; no other round and client notices."""
    silent = ran(built, stage, lost)
    took_part = [c for c in range(NODES) if c != LIAR or STAGES.index(stage) > STAGES.index("train")]
    assert silent.rounds[0].participants == tuple(took_part)
    bad = list(forgeries(stage, right_answer(built, stage)))
    for records in bad if sample is None else random.Random(0).sample(bad, sample):
        journal = ran(built, stage, lambda reply, records=records: holding(reply, records))
        assert failures_of(journal, 1) == [f"client {LIAR}"], records
        assert failures_of(journal, 2) == []
        assert [record.participants for record in journal.rounds] == [r.participants for r in silent.rounds]
        assert model_hash(journal.weights) == model_hash(silent.weights)


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_that_is_none_costs_its_sender_alone(scenario: Build, stage: str) -> None:
    check_forgeries(scenario_of(scenario), stage, 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_no_answer_that_is_none_costs_more_than_its_sender(scenario: Build, stage: str) -> None:
    check_forgeries(scenario_of(scenario), stage, None)


def from_node(reply: Message, node: int) -> Message:
    """The reply as another node would send it."""
    metadata = copy.copy(reply.metadata)
    metadata.__dict__["_src_node_id"] = node
    return Message(reply.content, metadata=metadata)  # pyright: ignore[reportCallIssue]


def naming(reply: Message, client: int) -> list[Message]:
    """The reply with a field that says it came from another client."""
    name = name_of(reply.metadata.message_type)
    return holding(reply, {name: ConfigRecord({**reply.content.config_records[name], "client": client})})


@pytest.fixture(scope="module")
def honest(scenario: Build) -> ServerLog:
    """The federation in which nobody forges."""
    return ran(scenario_of(scenario), "train", lambda reply: [reply])


DOUBLES: dict[str, Forge] = {
    "in another's name": lambda reply: naming(reply, 0),
    "twice": lambda reply: [reply, reply],
    "twice and then empty": lambda reply: [reply, *holding(reply, {})],
    "from a node that was not asked too": lambda reply: [reply, from_node(reply, 99)],
}


@pytest.mark.parametrize(
    ("stage", "forge"),
    [  # quick tests see each stage and each double once or twice
        pytest.param(stage, forge, id=f"{stage}, {name}", marks=() if at % 4 == number else pytest.mark.slow)
        for at, stage in enumerate(STAGES)
        for number, (name, forge) in enumerate(DOUBLES.items())
    ],
)
def test_the_first_answer_of_the_node_that_was_asked_counts_whatever_it_says_of_itself(
    scenario: Build, honest: ServerLog, stage: str, forge: Forge
) -> None:
    journal = ran(scenario_of(scenario), stage, forge)
    assert failures_of(journal, 1) == []
    assert model_hash(journal.weights) == model_hash(honest.weights)


@pytest.mark.parametrize("stage", STAGES)
def test_an_answer_of_the_right_shape_and_random_content_ends_no_run(scenario: Build, stage: str) -> None:
    """What only other clients can notice may cost the round; the next one has all clients."""
    numbers = random.Random(0)

    def scrambled(value: Any) -> Any:
        if isinstance(value, list):
            return [scrambled(entry) for entry in value]
        return numbers.randbytes(len(value)) if isinstance(value, bytes) else value

    def forge(reply: Message) -> list[Message]:
        name = name_of(stage)
        right = reply.content.config_records[name]
        entries = {key: value if key == TYPE else scrambled(value) for key, value in right.items()}
        if stage == "train":
            size = len(cast("bytes", right[VECTOR])) // 8
            upload = torch.randint(2**40, (size,), generator=torch.Generator().manual_seed(0))
            entries[VECTOR] = upload.numpy().tobytes()
        return holding(reply, {name: ConfigRecord(entries)})

    journal = ran(scenario_of(scenario), stage, forge)
    assert len(journal.rounds) == 2
    causes = {failure.cause for failure in journal.rounds[0].failures if failure.subject != f"client {LIAR}"}
    assert causes <= {"refused", "aborted"}
    assert failures_of(journal, 2) == []
    assert journal.rounds[1].participants == tuple(range(NODES))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in journal.weights.values())
