"""Columns of 0 and 1: which rows of a span obey them."""

import pytest
import torch

from attacks.batch_separation._one_hot_columns import TableColumns, pivots_of, round_rows, rows_in
from fedsim.core.nets.table_columns import categories_of
from tests.attacks.tables import census


def spanned(rows, seed=0):
    """Return some basis of the span of rows, the bias last."""
    whole = torch.column_stack([rows, torch.ones(len(rows)).double()])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((len(rows), len(rows)), generator=generator, dtype=torch.float64) @ whole


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_among_the_candidates_whenever_the_columns_tell_all_rows_apart(seed):
    people = census()
    rows = people.rows[torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:8]]
    span, table = spanned(rows), TableColumns(categories_of(people.spec.mean, people.spec.std), {})
    pivots = pivots_of(span, table)
    assert pivots.determined_dimensions == 8
    candidates = rows_in(span, table, pivots) @ span
    # The basis is random, of condition below 1e4, so double precision leaves 1e-10 or so.
    assert float(torch.cdist(rows, candidates[:, :-1]).amin(1).max()) < 1e-8
    assert torch.allclose(candidates[:, -1], torch.ones(len(candidates)).double())


def test_columns_of_a_known_scale_fix_what_flags_leave_open():
    flags = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
    answers = torch.tensor([[0.0, 0.5], [0.25, 1.0], [0.75, 0.25], [1.0, 0.25]], dtype=torch.float64)
    span = spanned(torch.cat([flags, answers], 1))
    assert pivots_of(span, TableColumns(((0, 1),), {})).determined_dimensions == 2
    table = TableColumns(((0, 1),), {2: 4, 3: 4})
    pivots = pivots_of(span, table)
    assert (pivots.determined_dimensions, pivots.combinations) == (4, 50)
    candidates = round_rows((rows_in(span, table, pivots) @ span)[:, :-1], table)
    for row in torch.cat([flags, answers], 1):
        assert bool((candidates == row).all(1).any())


def test_a_value_that_no_row_has_is_no_pivot():
    rows = torch.eye(3, dtype=torch.float64)[[0, 1]]
    pivots = pivots_of(spanned(rows), TableColumns(((0, 1, 2),), {}))
    assert 2 not in [column for feature in pivots.features for column in feature.columns]
    assert pivots.determined_dimensions == 2
