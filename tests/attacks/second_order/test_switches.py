"""Units that switch are found, and solved for."""

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._switches import switch_units
from tests.attacks.second_order.solved import Toy, distances, lenet, solve


@pytest.mark.parametrize(
    ("activation", "size", "rate"),
    [
        (nn.ReLU, 1, 0.5),
        pytest.param(nn.LeakyReLU, 1, 0.0, marks=pytest.mark.slow),
        pytest.param(nn.ReLU, 2, 0.0, marks=pytest.mark.slow),
    ],
)
def test_units_that_switch_are_solved_for(toy: Toy, activation: type[nn.Module], size: int, rate: float) -> None:
    observation, truth = toy(lenet(1, 8, 12, rate, activation), (1, 8, 8), size, classes=10, dtype=torch.float32)
    guess = solve(observation)
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-4
    assert [tuple(mask.shape) for mask in guess.masks or ()] == [site.shape for site in observation.sites]


def test_switches_in_place_and_as_functions_are_found(toy: Toy) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 36, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(inputs), 0.2)
            return self.last(torch.relu_(hidden + 0.1).flatten(1))

    observation, _ = toy(Block(), (1, 6, 6), 1)
    smooth, switches = switch_units(observation)
    assert switches == (0, 1)
    assert [site.shape for site in smooth.sites] == [(1, 8, 6, 6)] * 2
    assert list(dict(smooth.model.named_parameters())) == list(observation.update.tensors)
