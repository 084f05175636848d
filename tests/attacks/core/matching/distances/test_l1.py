"""Squared and absolute differences, beside sums written out."""

import pytest
import torch

from attacks.core.matching.comparison import ExplicitGradients
from attacks.core.matching.distances.l1 import L1Config, L1Distance


@pytest.mark.paper_step("tag", "squared and absolute differences")
def test_the_distance_is_that_of_the_paper() -> None:
    """sum over tensors of a_l (|g - g*|_2^2 + a |g - g*|_1), with weights that decay with depth."""
    generator = torch.Generator().manual_seed(2)
    rows = [tuple(torch.randn(shape, generator=generator) for shape in ((2, 3), (4,))) for _ in range(2)]
    target = [torch.randn(shape, generator=generator) for shape in ((2, 3), (4,))]
    gradients = ExplicitGradients(rows, [target, target], torch.ones(2, 2))
    found = L1Distance(L1Config(absolute_weight=0.5, depth_decay=0.9))(gradients)
    expected = [
        sum(
            0.9**depth * float((d := g - t).square().sum() + 0.5 * d.abs().sum())
            for depth, (g, t) in enumerate(zip(row, target, strict=True))
        )
        for row in rows
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_without_squares_it_is_the_absolute_distance() -> None:
    gradients = ExplicitGradients([(torch.tensor([1.0, -2.0]),)], [[torch.tensor([3.0, 1.0])]], torch.ones(1, 1))
    assert L1Distance(L1Config(squared_weight=0.0, absolute_weight=1.0))(gradients).tolist() == [5.0]
