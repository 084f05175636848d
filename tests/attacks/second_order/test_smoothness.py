"""Models without derivatives are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from tests.attacks.second_order.solved import Toy, solve


def test_models_without_derivatives_are_refused(toy: Toy) -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, inputs: Tensor) -> Tensor:
            return 2.0 * inputs

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return 2.0 * gradient

    class Layer(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return Doubled.apply(inputs)

    observation, _ = toy(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Layer(), nn.Linear(12, 4)), (1, 4, 4), 1)
    with pytest.raises(NotApplicable, match="no derivative that can be taken"):
        solve(observation)
