"""A tree sends rows where xgboost sends them, and boxes hold what reaches a leaf."""

import json
from typing import Any

import torch

from fedsim.questions.trees.types import RowBoxes, read_model

#       0: x0 < 0.5
#   1: x1 < -1   2: leaf
# 3: leaf  4: leaf
TREE: dict[str, Any] = {
    "left_children": [1, 3, -1, -1, -1],
    "right_children": [2, 4, -1, -1, -1],
    "split_indices": [0, 1, 0, 0, 0],
    "split_conditions": [0.5, -1.0, 0.3, -0.2, 0.1],
    "sum_hessian": [6.0, 4.0, 2.0, 1.0, 3.0],
}


def model(base: str = "[5.5E-1]", **changes: Any) -> str:
    trees = {"gradient_booster": {"model": {"trees": [{**TREE, **changes}]}}}
    return json.dumps({"learner": {"learner_model_param": {"base_score": base}, **trees}})


def test_base_scores_are_read_in_either_form() -> None:
    assert read_model(model()).base == read_model(model("0.55")).base == 0.55


def test_a_row_goes_left_below_a_threshold_and_right_on_it() -> None:
    (tree,) = read_model(model()).trees
    assert tree.leaves.tolist() == [2, 3, 4]
    assert tree.splits.tolist() == [0, 1]
    rows = torch.tensor([[0.5, -9.0], [0.4, -1.5], [0.4, -1.0], [0.4, 7.0]])
    assert tree.find_leaf_indices(rows).tolist() == [0, 1, 2, 2]


def test_values_compare_as_float32() -> None:
    (tree,) = read_model(model(split_conditions=[0.1, -1.0, 0.3, -0.2, 0.1])).trees
    assert tree.find_leaf_indices(torch.tensor([[0.1, 0.0]]).double()).tolist() == [0]
    low, high = tree.boxes(2)
    assert RowBoxes(torch.zeros(3), low, high).contains_rows(
        torch.tensor([[0.1, 0.0]]).double()
    ).flatten().tolist() == [
        1,
        0,
        0,
    ]


def test_boxes_of_leaves_share_out_the_space() -> None:
    (tree,) = read_model(model()).trees
    low, high = tree.boxes(2)
    inf = torch.inf
    assert low.tolist() == [[0.5, -inf], [-inf, -inf], [-inf, -1.0]]
    assert high.tolist() == [[inf, inf], [0.5, -1.0], [0.5, inf]]
    rows = torch.randn(50, 2)
    holding = RowBoxes(torch.zeros(3), low, high).contains_rows(rows)
    assert torch.equal(holding.nonzero()[:, 0][holding.nonzero()[:, 1].argsort()], tree.find_leaf_indices(rows))


def test_covers_may_be_stripped_in_two_ways() -> None:
    (tree,) = read_model(model()).trees
    assert tree.cover.tolist() == TREE["sum_hessian"]
    assert read_model(model(sum_hessian=[0.0] * 5)).trees[0].cover is None
    raw = json.loads(model())
    del raw["learner"]["gradient_booster"]["model"]["trees"][0]["sum_hessian"]
    assert read_model(json.dumps(raw)).trees[0].cover is None


def test_boxes_are_packed_and_unpacked() -> None:
    boxes = RowBoxes(torch.tensor([1, 0]), torch.tensor([[-torch.inf, 0.1]] * 2), torch.tensor([[2.0, torch.inf]] * 2))
    again = RowBoxes.from_tensor(boxes.to_tensor())
    assert all(torch.equal(getattr(boxes, name), getattr(again, name)) for name in ("labels", "low", "high"))
