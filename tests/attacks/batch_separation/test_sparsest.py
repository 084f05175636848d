"""Sparsest vectors of a subspace span a sparse dictionary."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation._sparsest import nothing_found, searched


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 12), st.integers(0, 100))
def test_sparsest_vectors_span_a_sparse_dictionary_and_not_a_dense_one(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    dense_columns = torch.randn((256, rank), generator=generator, dtype=torch.float64)
    sparse_columns = dense_columns * torch.rand((256, rank), generator=generator).gt(0.5)
    sparse_columns = sparse_columns[sparse_columns.any(1)]
    basis = torch.linalg.svd(sparse_columns, full_matrices=False).U
    found = searched(basis, nothing_found(rank), 256, generator)
    columns = nn.functional.normalize(basis @ found.vectors.T, dim=0)
    agreement = (columns.T @ nn.functional.normalize(sparse_columns, dim=0)).abs().max(0).values
    assert len(found.vectors) == rank
    assert float(agreement.min()) > 1 - 1e-8
    nothing = searched(torch.linalg.svd(dense_columns, full_matrices=False).U, nothing_found(rank), 256, generator)
    assert len(nothing.vectors) == 0
