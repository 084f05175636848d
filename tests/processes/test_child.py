"""What the process of an isolated method answers to a request, without the process."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation
from fedsim.processes import frames, packing
from fedsim.processes.child import answer
from fedsim.processes.methods import InProcessRunner
from fedsim.scenario import AttackChoice

Watched = Callable[..., tuple[Observation, Any, Any]]


@pytest.fixture
def attack() -> Attack[Any]:
    return AttackChoice(name="inverting-gradients", settings={"max_iterations": 3}).make("attack")


def answered(attack: Attack[Any], request: Any) -> tuple[frames.Kind, bytes, list[frames.Kind]]:
    """Return kind and content of the answer, and the kinds of what came before it."""
    meanwhile = io.BytesIO()
    payload = request if isinstance(request, bytes) else packing.serialise_value(request)
    found = frames.read(io.BytesIO(answer(InProcessRunner(attack), payload, meanwhile)))
    meanwhile.seek(0)
    return found.kind, found.payload, [kind for kind, _ in frames.read_all(meanwhile)]


def _request(observation: Observation) -> tuple[str, tuple[Any, ...], list[tuple[int, torch.Tensor]], None]:
    source = seeding.generator(1, "attack")
    return "together", ([observation],), [(source.initial_seed(), source.get_state())], None


def test_a_search_is_answered_with_its_steps_and_the_guess_of_the_same_search_here(
    watched: Watched, attack: Attack[Any]
) -> None:
    observation, _, _ = watched()
    request = _request(observation)
    kind, content, meanwhile = answered(attack, request)
    assert kind == frames.ANSWER
    assert meanwhile == [frames.STEP] * 3
    (found,) = packing.unpack_values(content)
    expected = attack(observation, seeding.generator(1, "attack"))
    assert torch.equal(found.inputs, expected.inputs)


def test_how_many_are_searched_together_is_a_number(watched: Watched, attack: Attack[Any]) -> None:
    observation, _, _ = watched()
    kind, content, _ = answered(attack, ("max_victims", (observation,), [], None))
    assert (kind, packing.unpack_values(content)) == (frames.ANSWER, attack.max_victims(observation))


def test_whatever_goes_wrong_is_the_attacks_failure(
    watched: Watched, attack: Attack[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answered(attack, b"no tensors")[0] == frames.FAILED
    observation, _, _ = watched()
    request = _request(observation)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(type(attack), "search_batch", broken)
    kind, content, _ = answered(attack, request)
    assert kind == frames.FAILED
    assert b"ZeroDivisionError: a bug" in content
