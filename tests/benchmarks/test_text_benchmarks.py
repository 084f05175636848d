"""What the benchmarks on text measure with: chance."""

from itertools import permutations

import pytest
import torch

from benchmarks.text_attacks import chance
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Truth, Update


def test_chance_is_the_mean_over_all_orders_of_a_sentence() -> None:
    sentence = (5, 7, 5, 9, 5)
    labels = torch.tensor([[1, 1, 1, 1, 1, IGNORED]])
    batch = Batch(torch.tensor([[*sentence, 5]]), labels)
    truth = Truth((batch,), ((),), Update("gradient", {}, {}, 1, 0.0), (batch,))
    orders = list(permutations(sentence))
    right = sum(own == other for order in orders for own, other in zip(order, sentence, strict=True))
    assert chance(truth) == pytest.approx(right / (len(orders) * len(sentence)))
