"""The server sees what was sent, and no row; clients train on what they own."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch
from fedsim.questions.trees.observe import boxes_of, leaf_sums
from fedsim.questions.trees.types import read_model
from tests.questions.trees.growing import tree_federation

FEDERATION = tree_federation(columns=6)
RUN = FEDERATION.run()


def test_shares_do_not_overlap_and_are_rows_of_the_table() -> None:
    rows = torch.cat([share.inputs for share in FEDERATION.shares])
    assert len(rows.unique(dim=0)) == 80
    assert bool((rows[:, None] == FEDERATION.dataset.train.inputs).all(2).any(1).all())
    assert [share.labels.shape for share in tree_federation(numbers=True).shares] == [(40,), (40,)]


def test_a_view_holds_messages_and_public_rows_alone() -> None:
    view = FEDERATION.view(RUN, 1)
    assert view.rounds is RUN.rounds
    assert view.base == FEDERATION.view(RUN, 0).first.base
    assert torch.equal(view.public.sort(0).values, FEDERATION.dataset.test.inputs.sort(0).values)
    tensors = [value for value in vars(view).values() if isinstance(value, torch.Tensor)]
    assert {len(tensor) for tensor in tensors} == {100}


def test_fewer_columns_are_the_first_ones() -> None:
    few = tree_federation(columns=6)
    few = replace(few, settings=few.settings.model_copy(update={"columns": 2}))
    assert torch.equal(few.shares[0].inputs, FEDERATION.shares[0].inputs[:, :2])
    assert few.view(few.run(), 0).columns == 2


def test_shuffled_labels_are_the_clients_own_in_another_order() -> None:
    shuffled = FEDERATION.run("labels shuffled")
    for one, other in zip(RUN.shares, shuffled.shares, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert not torch.equal(one.labels, other.labels)
        assert torch.equal(one.labels.bincount(), other.labels.bincount())
    assert shuffled.model != RUN.model


def test_leaves_sum_up_all_rows_and_boxes_hold_their_rows() -> None:
    view, rows = FEDERATION.view(RUN, 0), RUN.shares[0]
    sums = leaf_sums(view, rows.inputs, rows.labels)
    assert sums.sum(0).tolist() == [40.0, float(rows.labels.sum())]
    low, high = boxes_of(view, rows.inputs)
    assert bool(((low <= rows.inputs) & (rows.inputs < high)).all())


def test_boxes_are_cut_by_all_trees_that_the_clients_last_one_builds_on() -> None:
    federation = tree_federation(rounds=2)
    run = federation.run()
    view = federation.view(run, 0)
    low, high = boxes_of(view, view.public)
    columns = {(column, float(bound)) for bounds in (low, high) for column in range(6) for bound in bounds[:, column]}

    def thresholds(text: str) -> set[tuple[int, float]]:
        trees = read_model(text).trees
        return {(int(tree.column[node]), float(tree.value[node])) for tree in trees for node in tree.splits}

    theirs, last = thresholds(run.rounds[0][1]), thresholds(run.rounds[1][1])
    assert columns & theirs
    assert not columns & (last - theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 150}, "2 clients of 150 rows need 300 training rows, but the data have 200"),
        ({"clients": 1, "rows": 120}, "trees.rows is 120, expected at most 100"),
        ({"columns": 7}, "trees.columns is 7, and the table has 6"),
    ],
)
def test_settings_that_the_table_cannot_fill_are_refused(settings, message: str) -> None:
    table = FEDERATION.settings.model_copy(update=settings)
    with pytest.raises(ScenarioError, match=message):
        replace(FEDERATION, settings=table).check()


@pytest.mark.parametrize(
    ("inputs", "labels", "classes", "message"),
    [
        (torch.zeros(200, 1, 4, 4), torch.zeros(200).long(), 2, "expected rows of a table"),
        (torch.zeros(200, 6), torch.zeros(200).long(), 3, "labels of two classes"),
        (torch.zeros(200, 6), torch.zeros(200, 2), 2, "labels of two classes"),
    ],
)
def test_data_without_rows_or_with_other_labels_are_refused(inputs, labels, classes, message) -> None:
    dataset = FEDERATION.dataset
    other = replace(dataset, train=Batch(inputs, labels), spec=replace(dataset.spec, classes=classes))
    with pytest.raises(ScenarioError, match=message):
        replace(FEDERATION, dataset=other).check()
