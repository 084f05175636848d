"""Every leaf of every tree holds at least k rows."""

import pytest

from defenses.trees.leaf_size import LeafSize, LeafSizeConfig
from fedsim.questions.trees.types import Objective
from tests.attacks.trees.seats import seat


@pytest.mark.parametrize("numbers", [False, True])
def test_no_leaf_has_fewer_rows_and_without_it_some_have(numbers: bool) -> None:
    def smallest(**settings: object) -> int:
        view, rows = seat(numbers=numbers, trees=5, depth=5, **settings)
        trees = [tree for model in view.models for tree in model.trees]
        return min(int(tree.find_leaf_indices(rows.inputs).bincount().min()) for tree in trees)

    assert smallest(defense={"name": "leaf-size", "rows": 8}) >= 8
    assert smallest() < 8


@pytest.mark.parametrize(("objective", "cover"), [("binary:logistic", 1.75), ("reg:squarederror", 7.0)])
def test_the_least_cover_is_rows_times_the_largest_second_derivative(objective: Objective, cover: float) -> None:
    """It is p (1 - p) <= 1/4 for log loss, and 1 for squared error."""
    assert LeafSize(LeafSizeConfig(rows=7)).parameters(objective) == {"min_child_weight": cover}
