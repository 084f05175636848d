"""Adam against torch's own, and without bias correction against its equation."""

import pytest
import torch

from tests.components.optimizer.stepping import is_torchs_own, make


@pytest.mark.paper_step("adam", "running means with bias correction")
def test_thirty_steps_equal_torchs_own_over_fifteen_orders_of_magnitude() -> None:
    ours = make("adam", learning_rate=0.01, beta1=0.8, beta2=0.99)
    assert is_torchs_own(ours, torch.optim.Adam, lr=0.01, betas=(0.8, 0.99))


def test_adam_without_bias_correction_keeps_the_means_as_they_are() -> None:
    plain = make("adam", learning_rate=0.1, bias_correction=False)
    parameter, mean, square = torch.zeros(8), torch.zeros(8), torch.zeros(8)
    expected, state = torch.zeros(8), {}
    for step in range(1, 6):
        gradient = torch.arange(8.0) - step
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= 0.1 * mean / (square.sqrt() + 1e-8)
        plain.step({"w": parameter}, {"w": gradient}, state)
    assert torch.allclose(parameter, expected, rtol=1e-5)
