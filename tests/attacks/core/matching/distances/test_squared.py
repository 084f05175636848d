"""The squared distance, by hand."""

import pytest

from attacks.core.matching.distances.squared import SquaredDistance
from attacks.core.matching.terms import DistanceConfig
from tests.attacks.core.matching.measures import PAIR


def test_it_is_the_sum_of_all_squared_differences_times_its_weight() -> None:
    assert float(SquaredDistance(DistanceConfig())(PAIR)) == pytest.approx(16.0 + 99.0**2 + 1.0)
    assert float(SquaredDistance(DistanceConfig(weight=1e-4))(PAIR)) == pytest.approx(1e-4 * (17.0 + 99.0**2))
