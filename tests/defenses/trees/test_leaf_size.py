"""Every leaf of every tree holds at least k rows."""

import pytest

from tests.attacks.trees.seats import seat


@pytest.mark.parametrize("numbers", [False, True])
def test_no_leaf_has_fewer_rows_and_without_it_some_have(numbers: bool) -> None:
    def smallest(**settings: object) -> int:
        view, rows = seat(numbers=numbers, trees=5, depth=5, **settings)
        trees = [tree for model in view.models for tree in model.trees]
        return min(int(tree.find_leaf_indices(rows.inputs).bincount().min()) for tree in trees)

    assert smallest(defense={"name": "leaf-size", "rows": 8}) >= 8
    assert smallest() < 8
