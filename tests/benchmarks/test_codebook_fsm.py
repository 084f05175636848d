"""Codes name the states of a small machine and steer what follows them: the experiment of the paper's section 4."""

import pytest
import torch

from benchmarks._token_machine import Size, machine, written
from benchmarks.codebook_fsm import Plan, code_precisions, experiment, is_valid, neuron_precisions


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_precisions_of_a_perfect_code_and_a_perfect_neuron_are_one_and_of_blind_ones_chance() -> None:
    states = torch.randint(4, (4000,), generator=torch.Generator().manual_seed(0))
    blind = torch.randint(9, (4000,), generator=torch.Generator().manual_seed(1))
    perfect = torch.stack((blind, 8 - states), 1)
    assert code_precisions(perfect, states, 4, 9) == [1.0] * 4
    assert mean(code_precisions(blind[:, None], states, 4, 9)) == pytest.approx(0.25, abs=0.05)
    assert neuron_precisions((states == torch.arange(4)[:, None]).T + 0.1 * perfect[:, :1], states, 4) == [1.0] * 4
    noise = torch.rand(4000, 1, generator=torch.Generator().manual_seed(2))
    assert mean(neuron_precisions(noise, states, 4)) == pytest.approx(0.25, abs=0.1)


def test_a_rare_code_that_is_right_once_does_not_count() -> None:
    states = torch.tensor([0, 1] * 100)
    codes = states.clone()
    codes[0] = 2  # fired once, on state 0
    codes[1:150:2] = 0  # code 0 is mostly right about state 1
    assert code_precisions(codes[:, None], states, 2, 3)[0] < 1.0


def test_transitions_to_or_from_states_that_do_not_exist_are_not_valid() -> None:
    world = machine(12, 3, torch.Generator().manual_seed(0))
    before = torch.arange(12)
    assert is_valid(world, before, world.successors[:, 0]).all()
    assert not is_valid(world, before, torch.full((12,), 50)).any()
    assert not is_valid(world, torch.full((12,), 100), world.successors[:, 0]).any()
    assert written(world.walks(2, 5, torch.Generator().manual_seed(0))).shape == (2, 13)


@pytest.mark.slow
def test_codes_name_states_and_steer() -> None:
    """On so small a machine single codes name states worse than the best neurons of the plain model do."""
    plan = Plan(states=20, edges=4, size=Size(2, 32, 4, 25), codes=120, steps=700, sequences=200, trials=30)
    found, chance = experiment(plan), plan.edges / plan.states
    assert mean(found.accuracy_plain) > mean(found.accuracy) > 3 * chance
    assert mean(found.precision_codes) > 4 / plan.states
    assert mean(found.precision_behind) > mean(found.precision_codes)
    assert mean(found.untouched) < 1.5 * chance
    assert mean(found.steered) > 2 * chance
