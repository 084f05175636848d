"""What clients remember: only rounds that counted, on every engine, and the replay follows it bit by bit."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.types import Memory
from fedsim.experiment.runner import model_hash
from fedsim.federation import apps
from fedsim.federation.client import local_training
from fedsim.federation.journal import ServerLog
from fedsim.federation.memory import recall, remember
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import by_hand, recorded, run, who_counted
from tests.federation.secured import Tapped

ENGINES = ["local", "vectorized"]
NAMES = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=8)
TENSORS = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 99).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]),
    st.integers(0, 99),
)
MEMORIES = st.dictionaries(
    st.sampled_from(["optimizer", "defense 0", "loss 1"]), st.dictionaries(NAMES, TENSORS, min_size=1, max_size=3)
)


def same(first: Memory, second: Memory) -> bool:
    return first.keys() == second.keys() and all(
        first[owner].keys() == second[owner].keys()
        and all(
            first[owner][name].dtype == tensor.dtype and torch.equal(first[owner][name], tensor)
            for name, tensor in second[owner].items()
        )
        for owner in first
    )


@given(MEMORIES)
def test_what_counted_is_recalled_bit_by_bit_and_is_the_clients_own_copy(memory: Memory) -> None:
    state = RecordDict()
    remember(state, 3, memory)
    assert same(recall(state, 3), memory)
    again = recall(state, 3)
    for own in again.values():
        for tensor in own.values():
            tensor.fill_(1)
    assert same(recall(state, 3), memory)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8))
def test_memory_is_that_of_the_last_round_that_counted(fortune: list[tuple[bool, bool]]) -> None:
    state = RecordDict()
    counted = expected = 0
    for round_, (is_asked, counts) in enumerate(fortune, 1):
        if not is_asked:
            continue
        memory = recall(state, counted)
        assert int(memory.get("owner", {}).get("n", torch.tensor(0))) == expected
        remember(state, round_, {"owner": {"n": torch.tensor(expected + 1)}})
        if counts:
            counted, expected = round_, expected + 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_counter_counts_rounds(scenario: Build, counting: Any, engine: str) -> None:
    journal = run(scenario(federation={"clients": 2, "rounds": 3, "engine": engine}, defenses=[{"name": "counting"}]))
    assert len(journal.rounds) == 3
    assert counting.seen[-6:] == [(1, 0, 1), (1, 1, 1), (2, 0, 2), (2, 1, 2), (3, 0, 3), (3, 1, 3)]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_that_the_server_refused_does_not_advance_the_memory(
    scenario: Build, counting: Any, engine: str
) -> None:
    built = scenario(
        federation={"clients": 3, "rounds": 4, "engine": engine},
        defenses=[{"name": "counting", "refused": [[2, 0], [3, 1], [1, 2]]}],
    )
    journal = run(built)
    assert [[f.cause for f in record.failures] for record in journal.rounds] == [["not finite"]] * 3 + [[]]
    counts = [[n for _, client, n in counting.seen[-12:] if client == number] for number in range(3)]
    assert counts == [[1, 2, 2, 3], [1, 2, 3, 3], [1, 1, 2, 3]]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_declared_loss_does_not_advance_the_memory(scenario: Build, counting: Any, engine: str) -> None:
    built = scenario(
        federation={"clients": 6, "rounds": 6, "engine": engine},
        participation={"drop_before": 0.15, "drop_after": 0.15, "crash": 0.15, "fraction": 0.7},
        defenses=[{"name": "counting"}],
    )
    rounds = run(built).rounds
    expected = [
        (record.round, client, sum(client in who_counted(earlier) for earlier in rounds[: record.round]))
        for record in rounds
        for client in who_counted(record)
    ]
    assert counting.seen[-len(expected) :] == expected
    assert any(record.failures for record in rounds)


def test_a_crash_after_training_does_not_advance_the_memory(scenario: Build, counting: Any) -> None:
    built = scenario(
        federation={"clients": 2, "rounds": 4}, defenses=[{"name": "counting", "crashes": [[2, 0], [3, 1]]}]
    )
    journal = run(built)
    assert [[(f.subject, f.cause) for f in r.failures] for r in journal.rounds] == [
        [], [("client 0", "error")], [("client 1", "error")], [],
    ]  # fmt: skip
    assert [n for _, client, n in counting.seen if client == 0] == [1, 2, 2, 3]
    assert [n for _, client, n in counting.seen if client == 1] == [1, 2, 3, 3]


MEMORABLE = {"clients": 5, "rounds": 5, "algorithm": "fedavg", "local_steps": 3, "batch_size": 4}
LOSSES = {"drop_before": 0.2, "crash": 0.1, "fraction": 0.8}


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "sgd", "learning_rate": 0.1, "momentum": 0.9}, {"name": "adam", "learning_rate": 0.003}],
)
def test_kept_optimizer_states_equal_a_bare_loop_that_keeps_them(scenario: Build, optimizer: dict[str, Any]) -> None:
    federation = {**MEMORABLE, "optimizer": optimizer}
    built = scenario(federation={**federation, "keep_optimizer_state": True}, participation=LOSSES)
    journal = run(built)
    assert any(record.failures for record in journal.rounds)
    assert model_hash(journal.weights) == model_hash(by_hand(built, journal.rounds))
    forgetful = run(scenario(federation=federation, participation=LOSSES))
    assert model_hash(forgetful.weights) != model_hash(journal.weights)


def test_a_kept_optimizer_of_one_client_equals_torchs_that_never_stopped(scenario: Build) -> None:
    federation = {**MEMORABLE, "clients": 1, "optimizer": {"name": "adam"}, "keep_optimizer_state": True}
    built = scenario(federation=federation, model={"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0})
    journal = run(built)
    world = worlds.build(built)
    model = world.models.new()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for round_ in range(1, 6):
        for batch in world.data.batches(round_, 0):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            adam.step()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(journal.weights[name], tensor, atol=2e-6)


def test_error_feedback_equals_a_bare_loop(scenario: Build, counting: Any) -> None:
    assert counting.keeps_state
    built = scenario(federation=MEMORABLE, participation=LOSSES, defenses=[{"name": "error-feedback"}])
    journal = run(built)
    assert model_hash(journal.weights) == model_hash(by_hand(built, journal.rounds))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_replay_of_a_victim_that_remembers_gives_what_was_on_the_wire(
    scenario: Build, counting: Any, tmp_path: Path, engine: str
) -> None:
    assert counting.keeps_state
    built = scenario(
        federation={**MEMORABLE, "engine": engine, "optimizer": {"name": "adam"}, "keep_optimizer_state": True},
        participation=LOSSES,
        defenses=[{"name": "error-feedback"}],
        threat={"rounds": [3, 5], "victims": 3},
    )
    (arm,) = recorded(built, tmp_path / "run").arms
    assert arm.replay_matches
    journal = run(built)
    assert any(entry.earlier for entry in journal.entries)
    world = worlds.build(built)
    for entry in journal.entries:
        earlier = [r.round for r in journal.rounds[: entry.round - 1] if entry.client in who_counted(r)]
        assert [round_ for round_, _ in entry.earlier.get(entry.client, ())] == earlier
        amnesiac, _ = local_training(world, entry.received_weights, entry.round, entry.client)
        matches = all(torch.equal(amnesiac.tensors[n], entry.update.tensors[n]) for n in amnesiac.tensors)
        assert engine == "vectorized" or matches == (not earlier)


@dataclass
class Noting(Tapped):
    """A grid that keeps every message of the server."""

    orders: list[Message] = field(default_factory=list)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        self.orders.extend(sent)
        return super().send_and_receive(sent, timeout=timeout)


@pytest.mark.parametrize(
    ("secure", "stages"), [(None, 1), ({"mode": "ideal"}, 1), ({"mode": "masked", "least_contributors": 2}, 5)]
)
def test_a_message_that_was_answered_is_refused_the_second_time(
    scenario: Build, secure: dict[str, Any] | None, stages: int
) -> None:
    """Noise, rounding and masks follow from the round: two uploads of one round would differ by the updates alone."""
    threat = {"view": "sum"} if secure else {}
    grid = Noting(scenario(federation={"clients": 3, "rounds": 2}, threat=threat, secure_aggregation=secure))
    grid.serve(apps.server_app(grid.world, ServerLog(lambda _record: None)))
    assert len(grid.orders) == 3 * 2 * stages
    assert not any(reply.has_error() for reply in grid.replies)
    for order in list(grid.orders):
        again = Message(order.content, dst_node_id=order.metadata.dst_node_id, message_type=order.metadata.message_type)
        (reply,) = grid.send_and_receive([again])
        assert reply.has_error()
        reason = reply.error.reason or ""
        assert re.fullmatch(
            r"refused: .*(answers each round once|had begun|request for stage '\w+', expected '[\w ]+')[^\n]*", reason
        )
