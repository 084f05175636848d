"""Thresholds are values of public rows, and none of the client's."""

import torch

from defenses.trees.public_cuts import PublicCuts, PublicCutsConfig
from fedsim.questions.trees.metrics import find_occurring, leaf_counts_exact
from fedsim.questions.trees.observe import leaf_sums
from tests.attacks.trees.seats import answer, seat


def test_thresholds_are_public_values_alone() -> None:
    view, rows = seat(defense={"name": "public-cuts", "cuts": 16})
    listed = answer("thresholds", view)
    assert bool(find_occurring(listed, view.public).all())
    assert not bool(find_occurring(listed, rows.inputs).any())


def test_raw_rows_come_to_the_leaves_in_which_they_were_trained() -> None:
    view, rows = seat(defense={"name": "public-cuts", "cuts": 16})
    read = answer("leaf-counts", view)
    assert leaf_counts_exact(read, leaf_sums(view, rows.inputs, rows.labels)).value == 1.0
    assert torch.equal(read[:, 0].sum(), torch.tensor(40.0).double())


def test_values_fall_to_the_highest_cut_that_is_no_higher() -> None:
    """Of four public rows, three cuts are the first, the second and the last value of each column."""
    public = torch.tensor([[3.0, 10.0], [0.0, 40.0], [1.0, 30.0], [2.0, 20.0]])
    rows = torch.tensor([[1.0, 39.0], [0.9, 40.0], [-5.0, 20.0], [2.9, 9.0], [7.0, 19.9]])
    expected = torch.tensor([[1.0, 20.0], [0.0, 40.0], [0.0, 20.0], [1.0, 10.0], [3.0, 10.0]])
    assert torch.equal(PublicCuts(PublicCutsConfig(cuts=3)).prepare(rows, public), expected)
