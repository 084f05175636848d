"""Candidates of which a gradient is made, by zeros and by derivatives."""

import torch

from attacks.batch_separation._rows_of_gradient import (
    candidates_by_derivatives,
    candidates_by_zeros,
    is_in_column_space,
)
from tests.attacks.solving import network, toy


def candidates_of(rows):
    """Return rows and then sums and differences of them that are no rows, all of which span the same space."""
    return torch.cat([rows, rows[:-2] - rows[1:-1] + rows[2:]])


def test_the_rows_are_those_whose_factor_has_most_zeros():
    generator = torch.Generator().manual_seed(0)
    rows = torch.eye(6, dtype=torch.float64)
    left = torch.randn((64, 6), generator=generator, dtype=torch.float64)
    left = left * (torch.rand((64, 6), generator=generator) > 0.5)
    *_, chosen = candidates_by_zeros(left @ rows, candidates_of(rows), 8, generator)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4, 5]


def test_nothing_is_chosen_where_candidates_do_not_span_the_gradient():
    generator = torch.Generator().manual_seed(0)
    assert not list(candidates_by_zeros(torch.ones(8, 3).double(), torch.eye(3).double()[:2], 2, generator))


def test_derivatives_tell_the_rows_without_any_zero():
    observation, truth = toy(network(8, 32), (8,), 5)
    inputs = truth.batches[0].inputs
    examples = candidates_of(inputs)
    known = torch.column_stack([examples, torch.ones(len(examples)).double()])
    frame = torch.linalg.qr(known[:5].T).Q
    gradient = torch.column_stack([observation.update.tensors[name] for name in ("1.weight", "1.bias")])
    (chosen,) = candidates_by_derivatives(observation, "1", examples, gradient @ frame, known @ frame)
    assert chosen.tolist() == [0, 1, 2, 3, 4]


def test_derivatives_tell_nothing_where_there_are_more_unknowns_than_equations():
    observation, truth = toy(network(8, 2), (8,), 5)
    examples = candidates_of(truth.batches[0].inputs)
    parts, known = torch.ones(2, 5).double(), torch.ones(len(examples), 5).double()
    assert not list(candidates_by_derivatives(observation, "1", examples, parts, known))


def test_each_row_that_depends_on_no_other_shows_in_the_column_space_by_itself():
    observation, truth = toy(network(8, 32), (8,), 7)
    inputs = truth.batches[0].inputs
    examples = candidates_of(inputs)
    gradient = torch.column_stack([observation.update.tensors[name] for name in ("1.weight", "1.bias")])
    frame = torch.linalg.qr(torch.column_stack([inputs, torch.ones(7).double()]).T).Q
    assert is_in_column_space(observation, "1", examples, gradient @ frame).nonzero().flatten().tolist() == [*range(7)]
    assert not bool(is_in_column_space(observation, "1", examples, gradient @ frame[:, :3]).any())
