"""Units that switch are found, and solved for."""

import pytest
import torch
from torch import Tensor, nn

from attacks.second_order._switches import keep_own_masks, switch_units, unit_values
from fedsim.core.nets.masks import inject_masks
from tests.attacks.second_order.solved import distances, lenet, solve, toy


@pytest.mark.parametrize(
    ("activation", "size", "rate"),
    [
        (nn.ReLU, 1, 0.5),
        pytest.param(nn.LeakyReLU, 1, 0.0, marks=pytest.mark.slow),
        pytest.param(nn.ReLU, 2, 0.0, marks=pytest.mark.slow),
    ],
)
def test_units_that_switch_are_solved_for(activation: type[nn.Module], size: int, rate: float) -> None:
    observation, truth = toy(lenet(1, 8, 12, rate, activation), (1, 8, 8), size, classes=10, dtype=torch.float32)
    guess = solve(observation)
    assert guess.is_exact
    assert float(distances(guess, truth).max()) < 1e-4
    assert [tuple(mask.shape) for mask in guess.masks or ()] == [site.shape for site in observation.sites]


def test_switches_in_place_and_as_functions_are_found() -> None:
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


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.3)])
def test_with_the_switches_of_its_units_the_model_computes_the_same(activation: nn.Module) -> None:
    layers = (nn.Linear(16, 9), activation, nn.Dropout(0.5), nn.Linear(9, 7), activation, nn.Linear(7, 4))
    observation, truth = toy(nn.Sequential(nn.Flatten(), *layers), (1, 4, 4), 3)
    inputs, (mask,) = truth.batches[0].inputs, truth.masks[0]
    smooth, switches = switch_units(observation)
    assert switches == (0, 2)
    first, second = ((values > 0).double() for values in unit_values(observation, inputs, (mask,)))
    with inject_masks(smooth.sites, (first, mask, second)):
        found = smooth.model(inputs)
    with inject_masks(observation.sites, (mask,)):
        torch.testing.assert_close(found, observation.model(inputs))
    assert [own is mask for own in keep_own_masks((first, mask, second), switches)] == [True]
