"""Distances tensor by tensor, by hand."""

import math

import pytest

from attacks.core.matching.distances.norms import NormsDistance
from attacks.core.matching.terms import DistanceConfig
from tests.attacks.core.matching.measures import PAIR


def test_distances_of_both_tensors_are_added_up() -> None:
    assert float(NormsDistance(DistanceConfig())(PAIR)) == pytest.approx(4.0 + math.sqrt(99.0**2 + 1.0))
