import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks.core.spans import rank_one, spectrum


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 1000))
def test_rank_one_agrees_with_the_singular_value_decomposition(rows, columns, seed):
    weight = torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    factor, residual = rank_one(weight)
    _, singular, right = torch.linalg.svd(weight)
    assert abs(float(nn.functional.cosine_similarity(factor, right[0], dim=0))) == pytest.approx(1.0, abs=1e-6)
    assert residual == pytest.approx(float(singular[1:].norm() / singular.norm()), abs=1e-6)


def test_rank_one_of_nothing_is_nothing():
    factor, residual = rank_one(torch.zeros((3, 4), dtype=torch.float64))
    assert not factor.any()
    assert residual == 0.0


@given(st.integers(1, 20), st.floats(0.0, 1e-8), st.integers(0, 100))
def test_an_exact_spectrum_is_cut_at_the_rounding(rank, rounding, seed):
    generator = torch.Generator().manual_seed(seed)
    singular = torch.cat([torch.rand(rank, generator=generator).add(0.1), torch.full((60,), rounding)]).sort(
        descending=True
    )
    read = spectrum(singular.values.double())
    assert (read.rank, read.is_exact) == (rank, True)
    assert read.condition == pytest.approx(float(singular.values[0] / singular.values[rank - 1]))


@given(st.integers(1, 20), st.floats(1e-4, 1e-2), st.integers(0, 100))
def test_a_noisy_spectrum_is_cut_at_the_widest_gap(rank, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    signal = torch.rand(rank, generator=generator).add(1.0)
    rest = noise * torch.rand(60, generator=generator).add(1.0)
    singular = torch.cat([signal, rest]).sort(descending=True).values.double()
    read = spectrum(singular)
    assert (read.rank, read.is_exact) == (rank, False)
    assert read.noise == pytest.approx(float(rest.norm() / singular.norm()), rel=1e-5)
