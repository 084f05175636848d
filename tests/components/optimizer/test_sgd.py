"""SGD against torch's own."""

import torch

from tests.components.optimizer.stepping import is_torchs_own, make


def test_thirty_steps_equal_torchs_own_over_fifteen_orders_of_magnitude() -> None:
    assert is_torchs_own(make("sgd", learning_rate=0.1, momentum=0.9), torch.optim.SGD, lr=0.1, momentum=0.9)
