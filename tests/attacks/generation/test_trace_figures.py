"""Four figures of each series."""

import torch

from attacks.generation.trace_figures import TraceFigures
from fedsim.core.types import Config
from tests.attacks.generation.cases import LENGTH, case


def test_it_gives_length_sum_squares_and_first_step() -> None:
    found = TraceFigures(Config())(case("bits", "counts"), torch.Generator())
    assert found.unique(dim=0).tolist() == [[LENGTH // 2, LENGTH, 2 * LENGTH, 2], [LENGTH, LENGTH, LENGTH, 1]]
