"""The counted cost of a gradient."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.core.gradient_cost import gradient_cost, gradient_seconds
from tests.attacks.solving import left_alone, toy


def test_operations_of_two_layers_are_those_counted_by_hand():
    """Forward 2 (72 + 24), the gradients of both weights as many again, and 2 x 24 for the hidden units."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4))
    observation, _ = toy(model, (3, 2, 2), 5)
    assert gradient_cost(observation).operations == 2 * (72 + 24) + 2 * (72 + 24) + 2 * 24


def test_a_convolution_counts_each_position():
    """Forward and weight gradient: 2 x 3 x 3 x 3 weights at each of 16 positions, for 5 channels."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(80, 4))
    observation, _ = toy(model, (3, 4, 4), 1)
    convolution, head = 2 * 27 * 5 * 16, 2 * 80 * 4
    assert gradient_cost(observation).operations == 2 * convolution + 3 * head


def test_guesses_in_one_computation_cost_as_much_as_a_larger_batch():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))
    one, four = (toy(model, (3, 2, 2), size)[0] for size in (1, 4))
    assert gradient_seconds(one, rows=4) == pytest.approx(gradient_seconds(four))
    assert gradient_seconds(one) < gradient_seconds(four) < 4.0 * gradient_seconds(one)


def test_counting_changes_neither_the_model_nor_the_global_generator():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 4))
    observation, _ = toy(model, (3, 2, 2), 2)
    state = torch.random.get_rng_state()
    with left_alone(observation):
        gradient_cost(observation)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


class Demanding(nn.Module):
    """Needs a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, inputs: Tensor, other: Tensor) -> Tensor:
        return self.layer(inputs.flatten(1)) + other


def test_a_model_that_needs_further_inputs_counts_its_weights():
    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 2, 2), 1)
    assert gradient_cost(replace(observation, model=Demanding())).operations == 6 * (12 * 4 + 4)
