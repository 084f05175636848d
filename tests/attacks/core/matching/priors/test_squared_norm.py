"""The squared norm of a row."""

import pytest
import torch

from attacks.core.matching.descent import VictimGroup
from attacks.core.matching.priors.squared_norm import SquaredNorm
from attacks.core.matching.terms import PriorConfig


def test_squares_of_all_pixels_of_a_row_are_added_up() -> None:
    rows = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]])
    figures = SquaredNorm(PriorConfig()).of(VictimGroup([], [], [], []))(rows, (), [0, 0])
    assert figures.tolist() == pytest.approx([14.0, 0.25])
