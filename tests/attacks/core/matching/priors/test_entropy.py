"""The entropy of masks, beside scipy, and what it does to a search."""

import pytest
import torch
from scipy.stats import entropy as entropy_of

from attacks.core.matching.priors.entropy import entropy

INPUTS = torch.zeros(2, 1, 3)


def test_it_is_the_mean_over_all_entries_of_all_masks_of_a_row() -> None:
    masks = torch.rand(2, 3, 4, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    for row, figure in enumerate(entropy(INPUTS, masks, [0, 0]).tolist()):
        entries = torch.cat([mask[row].flatten() for mask in masks]).tolist()
        assert figure == pytest.approx(sum(entropy_of([m, 1 - m]) for m in entries) / len(entries), rel=1e-9)


def test_decided_masks_cost_next_to_nothing_and_have_a_bounded_slope() -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0], [1e-3, 0.0, 1.0]], requires_grad=True)
    figures = entropy(INPUTS, (mask,), [0, 0])
    assert figures[0] < 1e-4 < figures[1]
    (slope,) = torch.autograd.grad(figures.sum(), mask)
    assert bool(slope.isfinite().all())
    assert entropy(INPUTS, (), [0, 0]).tolist() == [0.0, 0.0]
