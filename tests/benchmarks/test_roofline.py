"""The least time of products of matrices."""

import pytest
import torch

from benchmarks.roofline import Products, Rates


def test_the_least_time_is_that_of_operations_or_of_memory() -> None:
    one, other = torch.ones(4, 8), torch.ones(8, 16)
    operations, moved = 2 * 4 * 8 * 16, 4 * (4 * 8 + 8 * 16 + 4 * 16)
    for rates in (Rates(1.0, 1e9), Rates(1e9, 1.0)):
        with Products(rates) as found:
            (one @ other).exp()
        assert found.operations == operations
        assert found.seconds == pytest.approx(max(operations / rates.operations, moved / rates.bytes))
