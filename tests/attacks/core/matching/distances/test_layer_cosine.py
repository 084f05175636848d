"""Cosines tensor by tensor, by hand."""

import math

import pytest

from attacks.core.matching.distances.layer_cosine import LayerCosineDistance
from attacks.core.matching.terms import DistanceConfig
from tests.attacks.core.matching.measures import PAIR


def test_both_tensors_count_alike() -> None:
    cosines = 9.0 / (5.0 * 3.0), 100.0 / (100.0 * math.sqrt(2.0))
    assert float(LayerCosineDistance(DistanceConfig())(PAIR)) == pytest.approx(1.0 - sum(cosines) / 2)
