"""Stripped models predict as before."""

import json

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


def test_sums_of_every_node_are_zero_and_all_else_is_sent_as_it_was() -> None:
    plain, stripped = (
        json.loads(tree_federation(defense=defense).run().rounds[0][1])["learner"]
        for defense in (None, {"name": "strip-sums"})
    )
    pairs = zip(*(model["gradient_booster"]["model"].pop("trees") for model in (plain, stripped)), strict=True)
    for before, after in pairs:
        for name in ("sum_hessian", "loss_changes", "base_weights"):
            assert after.pop(name) == [0.0] * len(before["left_children"])
            assert any(before.pop(name))
        assert after == before
    assert stripped == plain
