"""Relative squared distances, by hand."""

import pytest

from attacks.core.matching.distances.relative_squared import RelativeSquaredDistance
from attacks.core.matching.terms import DistanceConfig
from tests.attacks.core.matching.measures import PAIR


def test_each_tensor_counts_in_its_units() -> None:
    expected = (16.0 / 9.0 + (99.0**2 + 1.0) / 2.0) / 2
    assert float(RelativeSquaredDistance(DistanceConfig())(PAIR)) == pytest.approx(expected)
