"""One cosine over all tensors, by hand."""

import math

import pytest

from attacks.core.matching.distances.cosine import CosineDistance
from attacks.core.matching.terms import DistanceConfig
from tests.attacks.core.matching.measures import PAIR


@pytest.mark.paper_step("inverting-gradients", "cosine distance")
def test_tensors_of_any_length_share_one_cosine() -> None:
    whole = 109.0 / (math.sqrt(25.0 + 10_000.0) * math.sqrt(9.0 + 2.0))
    assert float(CosineDistance(DistanceConfig())(PAIR)) == pytest.approx(1.0 - whole)
