"""QSGD sends levels of the norm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.defenses.rounding.rounding import sent


@pytest.mark.paper_step("qsgd", "levels of the tensor's norm")
@given(st.integers(1, 300), st.integers(0, 1000), st.lists(st.integers(1, 5), max_size=3))
def test_qsgd_sends_levels_of_the_norm_next_to_each_entry(levels: int, seed: int, shape: list[int]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = sent("qsgd", {"w": tensor}, seed, levels=levels)["w"]
    steps = rounded / tensor.norm() * levels
    assert torch.allclose(steps, steps.round(), atol=1e-6)
    assert bool(((rounded - tensor).abs() <= tensor.norm() / levels * (1 + 1e-9)).all())
    assert bool((rounded * tensor >= 0).all())
