"""Split training over Flower's messages: the bytes of the training in one program, and errors that name the party."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.federation.engines.local import LocalGrid
from fedsim.questions.vertical.client import EMBED, ROWS, VECTORS, pack_tensor, split_settings, unpack_tensor
from fedsim.questions.vertical.server import run_over_flower
from fedsim.questions.vertical.training import HERE, CutWire, first_model, train
from fedsim.scenario.world import World, build
from tests.questions.asking import scenario_of

TABLE: dict[str, Any] = {
    "parties": [{"name": "mean", "columns": [0, 10]}, {"name": "worst", "columns": [20, 30]}],
    "engine": "flower",
    "epochs": 2,
    "batch_size": 128,
    "attacks": [{"name": "cut-line"}],
    "knows": ["few-labels"],
}


def world(federation: dict[str, Any] | None = None, **vertical: Any) -> World:
    federation = {"clients": 2, "batch_size": 4, **(federation or {})}
    return build(scenario_of(federation=federation, vertical={**TABLE, **vertical}))


def bytes_of(world: World) -> Callable[[CutWire], list[bytes]]:
    """Return a training that returns all that crossed the cut, the parts that made it, and the last model's weights."""

    def run(wire: CutWire) -> list[bytes]:
        settings, data, seed = split_settings(world), world.data.dataset, world.scenario.seed
        model = first_model(settings, data, seed)
        parts = {party.name: party.select_inputs(data.train.inputs).double() for party in settings.parties}
        crossed: list[torch.Tensor] = []
        for _, step in train(settings, model, parts, data.train.labels, seed, wire=wire):
            crossed += [step.rows, *step.up.values(), *step.down.values()]
            crossed += [weight for bottom in step.bottoms.values() for weight in bottom.parameters()]
        for module in (*model.bottoms.values(), model.top):
            crossed += module.parameters()
        return [tensor.detach().numpy().tobytes() for tensor in crossed]

    return run


def over(world: World) -> list[bytes]:
    return run_over_flower(world, lambda: None, bytes_of(world))


@pytest.mark.parametrize(
    "vertical",
    [{}, {"dropout": 0.5}, {"dropout": 0.5, "dropout_at": "top", "depth": 2}, {"bottom": "none"}, {"broadcast": True}],
)
def test_messages_carry_the_bytes_of_the_training_in_one_program(vertical: dict[str, Any]) -> None:
    built = world(**vertical)
    assert over(built) == bytes_of(built)(HERE)


@pytest.mark.parametrize(("broadcast", "seen"), [(False, {"worst"}), (True, {"mean", "worst"})])
def test_a_party_is_sent_the_gradients_of_others_where_they_are_broadcast(
    broadcast: bool, seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents: list[set[str]] = []

    def cut(_world: World, party: int, content: RecordDict, _state: RecordDict) -> RecordDict:
        if party == 1:
            contents.append(set(content))
        return RecordDict()

    monkeypatch.setattr("fedsim.questions.vertical.client.cut", cut)
    over(world(bottom="none", epochs=1, batch_size=455, broadcast=broadcast))
    assert contents == [{"question", *seen}]


def test_a_second_training_begins_afresh() -> None:
    built = world()

    def twice(wire: CutWire) -> list[list[bytes]]:
        return [bytes_of(built)(wire), bytes_of(built)(wire)]

    first, second = run_over_flower(built, lambda: None, twice)
    assert first == second


@pytest.mark.slow
@pytest.mark.timeout(600)  # eight messages, on real nodes each in a process of its own
@pytest.mark.parametrize("engine", ["ray", "superlink"])
def test_nodes_carry_the_bytes_of_the_training_in_one_program(engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    built = world({"engine": engine}, dropout=0.5, epochs=1, batch_size=256)
    assert over(built) == bytes_of(built)(HERE)


def test_a_party_whose_data_are_others_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(_world: World, _party: int, content: RecordDict, _state: RecordDict) -> RecordDict:
        return RecordDict({VECTORS: pack_tensor(torch.zeros(len(unpack_tensor(content, ROWS)), 8).double())})

    monkeypatch.setattr(f"fedsim.questions.vertical.client.{EMBED}", other)
    with pytest.raises(FedsimError, match="party 'mean' sends other vectors.*Install the same fedsim, torch and data"):
        over(world())


def test_a_party_that_breaks_or_is_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_anything: Any) -> Any:
        raise ValueError("my disk is full")

    monkeypatch.setattr(f"fedsim.questions.vertical.client.{EMBED}", broken)
    with pytest.raises(FedsimError, match="party 'mean' cannot answer: .*my disk is full"):
        over(world())

    def nobody(_grid: LocalGrid, _messages: Iterable[Message], *, timeout: float) -> list[Message]:
        return []

    monkeypatch.setattr(LocalGrid, "send_and_receive", nobody)
    with pytest.raises(FedsimError, match="party 'mean' did not answer within 600 seconds.*participation.timeout"):
        over(world())
