"""Stripped models predict as before."""

import torch

from fedsim.questions.trees.training import predict
from tests.questions.trees.growing import made_rows, tree_federation


def test_predictions_stay_and_covers_go() -> None:
    rows = made_rows(50, 6, 9).inputs
    plain, stripped = tree_federation(rounds=2), tree_federation(rounds=2, defense={"name": "strip-sums"})
    runs = [federation.run() for federation in (plain, stripped)]
    assert torch.equal(*[predict(run.model, rows) for run in runs])
    trees = [federation.view(run, 0).first.trees for federation, run in zip((plain, stripped), runs, strict=True)]
    assert all(tree.cover is not None for tree in trees[0])
    assert all(tree.cover is None for tree in trees[1])
