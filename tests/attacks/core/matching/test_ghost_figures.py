"""Observed gradients of low rank are kept as factors."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.core.matching.ghost_figures import _factorise, target_of


@given(
    rank=st.integers(1, 12), victims=st.integers(1, 3), sides=st.tuples(st.integers(100, 130), st.integers(100, 160))
)
@settings(max_examples=15, deadline=None)
def test_factors_are_the_observed_gradient(rank: int, victims: int, sides: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(rank)
    left = torch.randn((victims, sides[0], rank), generator=generator)
    right = torch.randn((victims, sides[1], rank), generator=generator)
    whole = left @ right.mT
    target = target_of(list(whole))
    assert not isinstance(target, Tensor)
    assert target.left_factor.shape[2] == rank
    error = (target.left_factor @ target.right_factor.mT - whole).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    assert float(error.max()) < 1e-6


def test_a_gradient_of_full_rank_is_not_factored() -> None:
    noise = torch.randn((1, 120, 130), generator=torch.Generator().manual_seed(0))
    assert _factorise(noise, 96) is None
    assert isinstance(target_of([noise[0]]), Tensor)
