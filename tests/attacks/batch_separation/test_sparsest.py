"""Sparsest vectors of a subspace span a sparse dictionary."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation._sparsest import Space, nothing_found, refine_vectors, search_vectors, sharpen_vectors


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 12), st.integers(0, 100))
def test_sparsest_vectors_span_a_sparse_dictionary_and_not_a_dense_one(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    dense_columns = torch.randn((256, rank), generator=generator, dtype=torch.float64)
    sparse_columns = dense_columns * torch.rand((256, rank), generator=generator).gt(0.5)
    sparse_columns = sparse_columns[sparse_columns.any(1)]
    basis = torch.linalg.svd(sparse_columns, full_matrices=False).U
    found = search_vectors(basis, nothing_found(rank), 256, generator)
    columns = nn.functional.normalize(basis @ found.vectors.T, dim=0)
    agreement = (columns.T @ nn.functional.normalize(sparse_columns, dim=0)).abs().max(0).values
    assert len(found.vectors) == rank
    assert float(agreement.min()) > 1 - 1e-8
    nothing = search_vectors(
        torch.linalg.svd(dense_columns, full_matrices=False).U, nothing_found(rank), 256, generator
    )
    assert len(nothing.vectors) == 0


def test_vectors_with_many_zeros_settle_where_reweighted_least_squares_end() -> None:
    generator = torch.Generator().manual_seed(3)
    dense = torch.randn(400, 20, generator=generator, dtype=torch.float64)
    planted = dense * torch.rand(400, 20, generator=generator).gt(0.5)
    basis = torch.linalg.svd(planted, full_matrices=False).U
    true = nn.functional.normalize(torch.linalg.lstsq(basis, planted).solution.T, dim=1)
    noise = 0.02 * torch.randn(true.shape, generator=generator, dtype=torch.float64)
    starts = nn.functional.normalize(true + noise, dim=1)
    exact = refine_vectors(Space.of(basis), starts)
    slow = sharpen_vectors(nn.functional.normalize(basis, dim=1), starts)
    assert exact.shape == true.shape
    assert float((exact * true).sum(1).abs().min()) > 1 - 1e-12
    assert torch.allclose((exact * slow).sum(1).abs(), torch.ones(20).double())
    far = nn.functional.normalize(torch.randn(5, 20, generator=generator, dtype=torch.float64), dim=1)
    assert len(refine_vectors(Space.of(torch.linalg.svd(dense, full_matrices=False).U), starts)) == 0
    assert len(refine_vectors(Space.of(basis), far)) == 0
    assert len(refine_vectors(Space.of(basis[:30]), starts)) == 0  # fewer rows than fix a vector
