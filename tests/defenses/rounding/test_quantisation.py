"""Uniform quantisation sends equidistant values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.defenses.rounding.rounding import sent


@pytest.mark.paper_step("quantisation", "equidistant values between the extremes")
@given(st.integers(1, 10), st.integers(0, 1000), st.lists(st.integers(1, 5), max_size=3))
def test_quantisation_sends_equidistant_values_next_to_each_entry(bits: int, seed: int, shape: list[int]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rounded = sent("quantisation", {"w": tensor}, seed, bits=bits)["w"]
    if tensor.numel() == 1:
        assert torch.equal(rounded, tensor)
        return
    step = (tensor.max() - tensor.min()) / (2**bits - 1)
    places = (rounded - tensor.min()) / step
    assert torch.allclose(places, places.round(), atol=1e-6)
    assert bool(((rounded - tensor).abs() <= step * (1 + 1e-9)).all())
    assert len(rounded.unique()) <= 2**bits
