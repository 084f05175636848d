"""The strategy alone: replies in any order, unusable ones, rules that misbehave, and what stays in memory."""

import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.aggregators.mean import Mean
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, ServerRound
from fedsim.core.types import Config, Contribution, MethodDescription
from fedsim.experiment.runner import train
from fedsim.federation.engines.local import LocalGrid
from fedsim.federation.journal import ServerLog
from fedsim.federation.server import AggregationStrategy, Reply
from fedsim.record import Failure
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from tests.experiment.running import Build


class _NoGrid(LocalGrid):
    def __init__(self) -> None:
        pass


def server(scenario: Scenario) -> tuple[AggregationStrategy, ServerLog, worlds.World]:
    """A server in its first round."""
    world = worlds.build(scenario)
    journal = ServerLog(lambda _record: None)
    strategy = AggregationStrategy(world, range(scenario.federation.clients), journal)
    first = ArrayRecord(dict(world.models.first_weights))
    assert strategy.configure_train(1, first, ConfigRecord(), _NoGrid())
    return strategy, journal, world


def replies_of(world: worlds.World) -> list[Any]:
    """Updates of many magnitudes, so that another order of additions would give other bits."""
    generator = torch.Generator().manual_seed(5)
    size = world.models.layout.size
    return [
        Reply(client, torch.randn(size, generator=generator) * 10.0**client, 1 + client, 0.5)
        for client in range(world.scenario.federation.clients)
    ]


def told(strategy: AggregationStrategy, replies: Iterable[Message]) -> tuple[list[bytes] | None, str]:
    """What came out, bit by bit, and what the record will say."""
    arrays, _ = strategy.aggregate_train(1, replies)
    new = None if arrays is None else [array.data for array in arrays.values()]
    return new, repr(strategy.tally)


@given(order=st.permutations(range(7)), lost=st.sets(st.integers(0, 6), max_size=3))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replies_in_any_order_give_the_same_bits_and_the_same_record(
    scenario: Build, order: list[int], lost: set[int]
) -> None:
    built = scenario(federation={"clients": 7}, threat={"victims": 3})
    outcomes = []
    for arrival in (range(7), order):
        strategy, journal, world = server(built)
        sent = replies_of(world)
        for client in lost:
            sent[client] = Reply(client, failure=Failure(subject=f"client {client}", reason="gone", cause="dropout"))
        outcomes.append((*told(strategy, [sent[i] for i in arrival]), [entry.client for entry in journal.entries]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2] == [client for client in range(7) if client not in lost][:3]


def test_who_does_not_answer_is_a_failure_and_the_others_count(scenario: Build) -> None:
    strategy, _, world = server(scenario())
    sent = replies_of(world)
    strategy.aggregate_train(1, [sent[3], sent[0]])
    assert [(f.subject, f.cause) for f in strategy.tally.failures] == [
        ("client 1", "no reply"),
        ("client 2", "no reply"),
    ]
    assert (strategy.tally.update_count, strategy.tally.examples) == (2, 5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_vectors_of_the_wrong_size_or_not_finite_are_failures(scenario: Build, value: float) -> None:
    strategy, _, world = server(scenario())
    sent = replies_of(world)
    size = world.models.layout.size
    sent[0] = Reply(0, torch.ones(size - 1), 1, 0.5)
    broken = torch.ones(size)
    broken[7] = value
    sent[2] = Reply(2, broken, 1, 0.5)
    strategy.aggregate_train(1, sent)
    assert [(f.subject, f.cause) for f in strategy.tally.failures] == [
        ("client 0", "error"),
        ("client 2", "not finite"),
    ]
    assert strategy.tally.failures[0].reason == f"the update has shape ({size - 1},), expected ({size},)"
    assert strategy.tally.update_count == 2


def test_an_update_whose_sum_overflows_is_finite_all_the_same(scenario: Build) -> None:
    strategy, _, world = server(scenario(federation={"clients": 1}))
    strategy.aggregate_train(1, [Reply(0, torch.full((world.models.layout.size,), 1e38), 1, 0.5)])  # type: ignore[list-item]
    assert strategy.tally.failures == []


def test_a_rule_that_does_not_take_every_update_is_an_error(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(_self: Mean, contributions: Iterable[Contribution], _here: ServerRound) -> Tensor:
        return next(iter(contributions)).vector

    monkeypatch.setattr(Mean, "combine", hasty)
    strategy, _, world = server(scenario())
    with pytest.raises(FedsimError, match="rule 'mean' did not take every update"):
        strategy.aggregate_train(1, replies_of(world))


def test_a_whole_round_holds_a_few_updates_at_a_time(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Watching(Reply):
        def __new__(cls, *values: Any, **named: Any) -> Any:
            reply = super().__new__(cls, *values, **named)
            nonlocal most
            if reply.vector is not None:
                alive.append(weakref.ref(reply.vector))
                most = max(most, sum(ref() is not None for ref in alive))
            return reply

    monkeypatch.setattr("fedsim.federation.server.Reply", Watching)
    (record,) = train(worlds.build(scenario(federation={"clients": 50})), lambda _record: None).rounds
    assert (len(alive), len(record.cohort), record.failures) == (50, 50, ())
    assert most <= 5


class Vandal(Defense[Config]):
    """A defense that writes into what it was given."""

    def on_gradient(self, gradient: Any, here: Any) -> Any:
        for tensor in here.received_weights.values():
            tensor.zero_()
            tensor.numpy()[...] = 7.0
        return gradient

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("vandal")


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_a_hook_cannot_change_the_weights_of_the_next_client(
    scenario: Build, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    world = worlds.build(scenario(federation={"clients": 3, "rounds": 2, "engine": engine}))
    plain = train(world, lambda _record: None)
    monkeypatch.setitem(world.__dict__, "defenses", (Vandal(Config()),))
    attacked = train(world, lambda _record: None)
    assert [r.test_metrics.get("test_loss") for r in attacked.rounds] == pytest.approx(
        [r.test_metrics.get("test_loss") for r in plain.rounds], rel=1e-5
    )
    for name, tensor in plain.weights.items():
        torch.testing.assert_close(attacked.weights[name], tensor)


def test_weights_are_decoded_once_a_round_whatever_the_number_of_clients(
    scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    decode = ArrayRecord.to_torch_state_dict

    def counted(self: ArrayRecord) -> Any:
        nonlocal calls
        calls += 1
        return decode(self)

    monkeypatch.setattr(ArrayRecord, "to_torch_state_dict", counted)

    def calls_of(clients: int, rounds: int) -> int:
        nonlocal calls
        calls = 0
        settings = {"clients": clients, "rounds": rounds, "evaluate_every": 100}
        train(worlds.build(scenario(seed=clients + 100 * rounds, federation=settings)), lambda _record: None)
        return calls

    end = 2  # evaluated after the last round, and handed over
    assert [calls_of(clients, rounds) for clients in (1, 9) for rounds in (1, 3)] == [
        2 + end,  # by the server, and by the clients
        4 + end,  # by the server in the first round only: the later ones it made itself
        2 + end,
        4 + end,
    ]
