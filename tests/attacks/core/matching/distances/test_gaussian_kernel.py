"""Gaussian kernels of differences, by hand and at their ends."""

from math import exp

import pytest

from attacks.core.matching.distances.gaussian_kernel import GaussianKernelConfig, GaussianKernelDistance
from tests.attacks.core.matching.measures import PAIR, Pair


@pytest.mark.parametrize(("width", "decay"), [(1.0, 1.0), (50.0, 1.0), (50.0, 0.25)])
def test_each_tensor_has_a_width_and_a_weight_of_its_own(width: float, decay: float) -> None:
    squares = 16.0 / 9.0, (99.0**2 + 1.0) / 2.0
    expected = sum(decay**depth * (1 - exp(-square / width)) for depth, square in enumerate(squares)) / (1 + decay)
    distance = GaussianKernelDistance(GaussianKernelConfig(width=width, depth_decay=decay))
    assert float(distance(PAIR)) == pytest.approx(expected)
    assert float(distance(Pair(own=PAIR.seen, seen=PAIR.seen))) == 0.0
