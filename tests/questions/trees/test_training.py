"""Clients exchange trees as Flower's strategies do."""

import json
import sys

import pytest
import torch

from fedsim.core.errors import MissingExtra
from fedsim.questions.trees.training import TreeTraining, append_trees, federate, load_xgboost, parameters, predict
from fedsim.questions.trees.types import read_model
from tests.questions.trees.growing import made_rows

SHARES = [made_rows(40, 6, seed) for seed in range(3)]


def training(**settings):
    return TreeTraining.model_validate({"clients": 3, "rows": 40, "trees": 2, "depth": 3, **settings})


def exchanged(**settings):
    table = training(**settings)
    return federate(table, SHARES, parameters(table, "binary:logistic"))


def test_bagging_appends_every_clients_trees() -> None:
    rounds, model = exchanged(rounds=2)
    assert [list(sent) for sent in rounds] == [[0, 1, 2]] * 2
    assert all(len(read_model(text).trees) == 2 for sent in rounds for text in sent.values())
    assert len(read_model(model).trees) == 12
    first = [read_model(text).base for text in rounds[0].values()]
    assert first == pytest.approx([float(share.labels.float().mean()) for share in SHARES])
    assert {read_model(text).base for text in rounds[1].values()} == {first[0]} == {read_model(model).base}


def test_models_join_as_in_flower() -> None:
    aggregate = pytest.importorskip("flwr.serverapp.strategy.strategy_utils").aggregate_bagging
    rounds, model = exchanged(rounds=2, trees=1)
    expected = b""
    for sent in rounds:
        for text in sent.values():
            expected = aggregate(expected, text.encode())
    assert json.loads(expected) == json.loads(model)


def test_cyclic_hands_the_model_round() -> None:
    rounds, model = exchanged(rounds=4, exchange="cyclic")
    assert [list(sent) for sent in rounds] == [[0], [1], [2], [0]]
    assert len(read_model(model).trees) == 8


def test_a_prediction_is_the_sum_of_the_leaves() -> None:
    _, model = exchanged(rounds=2)
    rows, read = made_rows(50, 6, 9).inputs, read_model(model)
    margin = torch.logit(torch.tensor(read.base, dtype=torch.double)).repeat(50)
    for tree in read.trees:
        margin += tree.value[tree.leaves][tree.find_leaf_indices(rows)]
    # xgboost adds float32 numbers
    assert torch.allclose(predict(model, rows).double(), margin.sigmoid(), atol=1e-6)


def test_later_trees_have_the_covers_of_all_trees_before() -> None:
    rounds, _ = exchanged(rounds=2)
    margin = torch.logit(torch.tensor(read_model(rounds[0][0]).base)).repeat(40).double()
    for text in rounds[0].values():
        for tree in read_model(text).trees:
            margin += tree.value[tree.leaves][tree.find_leaf_indices(SHARES[1].inputs)]
    tree = read_model(rounds[1][1]).trees[0]
    second = margin.sigmoid() * (1 - margin.sigmoid())
    sums = torch.zeros(len(tree.leaves)).double().index_add(0, tree.find_leaf_indices(SHARES[1].inputs), second)
    assert torch.allclose(tree.cover[tree.leaves], sums, rtol=1e-5)  # float32 sums of forty rows


def test_models_are_the_same_again_and_settings_reach_xgboost() -> None:
    assert exchanged()[1] == exchanged()[1]
    assert read_model(exchanged(base_score=0.5)[1]).base == 0.5
    assert all(len(tree.leaves) <= 2 for tree in read_model(exchanged(depth=1)[1]).trees)


def test_what_is_sent_is_covered_and_rounds_are_counted() -> None:
    table, seen = training(rounds=2), []
    rounds, model = federate(
        table, SHARES, parameters(table, "binary:logistic"), lambda model: {**model, "version": [9, 9, 9]}, seen.append
    )
    assert seen == [0, 1]
    assert json.loads(rounds[0][1])["version"] == json.loads(model)["version"] == [9, 9, 9]
    assert append_trees("", rounds[0][1]) == rounds[0][1]


def test_without_xgboost_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fedsim-privacy\[trees\]'"):
        load_xgboost()
