"""Boxes hold the client's rows, far above rows that take their leaves at random."""

import pytest
import torch

from attacks.trees import _groups
from attacks.trees._groups import follow
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Batch
from fedsim.questions.trees.metrics import match_boxes
from fedsim.questions.trees.types import RowBoxes
from tests.attacks.trees.seats import answer, seat


def covered(packed: torch.Tensor, rows: Batch) -> float:
    return float(match_boxes(RowBoxes.from_tensor(packed), rows.inputs, rows.labels).float().mean())


def true_share(rows: Batch):
    """Return what puts each row where it is: it counts the rows in each place."""

    def share(sharing: _groups.Sharing):
        places = sharing.places
        boxes = RowBoxes(*map(torch.from_numpy, (places.label, places.low, places.high)))
        return (boxes.contains_rows(rows.inputs) & (boxes.labels[:, None] == rows.labels)).sum(1).numpy()

    return share


@pytest.mark.paper_step("boxes", "assignment of rows to leaves, tree by tree")
@pytest.mark.parametrize(
    "settings",
    [
        {"trees": 8},
        {"trees": 2, "rounds": 3, "depth": 2},
        {"client": 1, "seed": 6, "trees": 2, "rounds": 3, "depth": 2},
    ],
)
def test_the_true_assignment_fits_and_covers_every_row(settings) -> None:
    view, rows = seat(**settings)
    boxes, misfit = follow(view, true_share(rows))
    sums = sum(float(tree.cover[tree.leaves].sum()) for model in view.models for tree in model.trees)
    assert misfit < 1e-4 * sums  # float32 sums of forty rows
    assert bool(match_boxes(boxes, rows.inputs, rows.labels).all())


def test_after_one_tree_every_row_is_covered() -> None:
    view, rows = seat(trees=1)
    packed = answer("boxes", view)
    assert len(packed) == 40
    assert covered(packed, rows) == 1.0


@pytest.mark.paper_step("boxes", "search over several trees")
def test_after_several_trees_it_covers_more_than_leaves_at_random() -> None:
    view, rows = seat(client=1, trees=5)
    # the sheet's table has 0.97 and 0.36 after five trees of sixty rows
    assert covered(answer("boxes", view, tries=4), rows) > 0.7
    assert covered(answer("boxes", view, "blind"), rows) < 0.5


def test_too_many_places_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_groups, "_MOST_OPTIONS", 20)
    view, _ = seat(trees=1, rounds=3)
    with pytest.raises(NotApplicable, match="more than 20 places"):
        answer("boxes", view)


def test_labels_that_are_numbers_are_refused() -> None:
    view, _ = seat(numbers=True)
    with pytest.raises(NotApplicable, match="here labels are numbers"):
        answer("boxes", view)


def test_where_the_search_ends_without_an_answer_leaves_are_taken_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoAnswer:
        x = None

    monkeypatch.setattr(_groups, "milp", lambda *_, **__: NoAnswer)
    view, _ = seat(trees=2)
    assert len(answer("boxes", view, tries=1)) == 40
