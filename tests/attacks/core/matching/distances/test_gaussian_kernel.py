"""Gaussian kernels of differences, by hand and at their ends."""

from math import exp

import pytest

from attacks.core.matching.distances.gaussian_kernel import GaussianKernelConfig, GaussianKernelDistance
from tests.attacks.core.matching.measures import PAIR, Pair


@pytest.mark.parametrize("width", [1.0, 50.0])
def test_each_tensor_has_a_width_of_its_own(width: float) -> None:
    squares = 16.0 / 9.0, (99.0**2 + 1.0) / 2.0
    expected = sum(1 - exp(-square / width) for square in squares) / 2
    distance = GaussianKernelDistance(GaussianKernelConfig(width=width))
    assert float(distance(PAIR)) == pytest.approx(expected)
    assert float(distance(Pair(own=PAIR.seen, seen=PAIR.seen))) == 0.0
