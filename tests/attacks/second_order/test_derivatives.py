"""Derivatives along directions, against those of a polynomial by hand, and against differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from attacks.second_order._derivatives import push_all_forward, push_forward


def cubes(values: Tensor) -> Tensor:
    return torch.stack([values[0] ** 3, values[0] * values[1]])


def test_the_derivative_along_a_direction_is_the_jacobian_times_it() -> None:
    point = torch.tensor([2.0, 5.0], dtype=torch.float64)
    jacobian = torch.tensor([[12.0, 0.0], [5.0, 2.0]], dtype=torch.float64)
    direction = torch.tensor([0.5, -1.0], dtype=torch.float64)
    assert torch.equal(push_forward(cubes, point, direction), jacobian @ direction)
    assert torch.equal(push_all_forward(cubes, point, torch.eye(2, dtype=torch.float64)), jacobian.T)


def series_client(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a network of two one-dimensional convolutions, of a window of 3 variables and 8 times."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv1d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv1d(4, 4, 3, 2), nn.SiLU()),
        *(nn.Flatten(), nn.Linear(12, 2)),
    ).double()
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    labels = torch.tensor([[0.3, -2.0]], dtype=torch.float64)

    def gradient(window: Tensor) -> Tensor:
        def value(weights: dict[str, Tensor]) -> Tensor:
            return loss(functional_call(network, weights, (window.view(1, 3, 8),)), labels)

        return torch.cat([tensor.flatten() for tensor in grad(value)(weights).values()])

    return gradient


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        lambda outputs, labels: nn.functional.mse_loss(outputs, labels, reduction="none").mean(),
        nn.HuberLoss(),
        nn.HuberLoss(reduction="sum", delta=0.5),
        nn.SmoothL1Loss(beta=0.5),
        nn.L1Loss(),
        lambda outputs, labels: (outputs - labels).square().mean(),
    ],
)
def test_gradients_of_series_have_derivatives_whatever_the_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    gradient, point = series_client(loss), torch.linspace(-1.0, 1.0, 24, dtype=torch.float64)
    directions, step = torch.eye(24, dtype=torch.float64), 1e-5
    differences = [(gradient(point + step * one) - gradient(point - step * one)) / (2 * step) for one in directions]
    derivatives = push_all_forward(gradient, point, directions)
    # Differences are off by the third derivative times the step squared, 1e-10, and rounding over the step, 1e-11.
    torch.testing.assert_close(derivatives, torch.stack(differences), rtol=1e-7, atol=1e-8)
