"""What both defenses with a client-level guarantee state of it."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.defenses.noise.uploads import make

BOTH = ("local-dp", "distributed-dp")


def rules(**facts: Any) -> Any:
    return SimpleNamespace(**{"clients": 100, "rounds": 4, **facts})


@pytest.mark.parametrize("name", BOTH)
def test_neighbours_replace_an_update_so_the_mechanism_states_half_the_noise(name: str) -> None:
    stated = make(name, noise_multiplier=3.0, delta=1e-6).mechanism(rules())
    assert (stated.unit, stated.adjacency, stated.noise_multiplier, stated.steps) == ("client", "replace", 1.5, 1)
    assert stated.delta == 1e-6


@pytest.mark.parametrize("name", BOTH)
def test_without_noise_there_is_no_guarantee(name: str) -> None:
    assert make(name, noise_multiplier=0.0).mechanism(rules()) is None


@pytest.mark.parametrize("name", BOTH)
def test_a_target_for_more_rounds_needs_more_noise_a_round(name: str) -> None:
    few, many = (make(name, target_epsilon=2.0).mechanism(rules(rounds=rounds)) for rounds in (1, 16))
    assert 3.5 * few.noise_multiplier < many.noise_multiplier < 4.5 * few.noise_multiplier  # composition: sqrt(16)


@pytest.mark.parametrize("name", BOTH)
def test_a_delta_as_large_as_a_clients_share_of_all_is_refused(name: str) -> None:
    defense: Any = make(name, delta=0.01)
    assert defense.why_delta_is_large(rules(clients=99)) is None
    assert "expected below 1/100, the number of clients" in defense.why_delta_is_large(rules(clients=100))


def test_both_say_against_whom_they_hold() -> None:
    local, told = make("local-dp").mechanism(rules()), make("distributed-dp", colluding_clients=2).mechanism(rules())
    assert local.adversary == "the server and everybody else with access to a client's uploads"
    assert told.adversary == "a server that sees nothing but secure sums, and 2 clients on its side"
