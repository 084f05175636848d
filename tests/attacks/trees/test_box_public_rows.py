"""Guesses are public rows of the label, moved into their boxes."""

from dataclasses import replace

import pytest
import torch

from attacks.trees.box_public_rows import _find_public_rows
from fedsim.core.errors import NotApplicable
from fedsim.questions.trees.types import RowBoxes
from tests.attacks.trees.seats import answer, seat


def test_guesses_lie_in_their_boxes_and_are_public_rows_where_one_fits() -> None:
    view, _ = seat(trees=1)
    boxes, guesses = RowBoxes.from_tensor(answer("boxes", view)), answer("box-public-rows", view).float()
    assert bool(((boxes.low <= guesses) & (guesses <= boxes.high)).all())
    public = view.public
    fitting = boxes.contains_rows(public) & (boxes.labels[:, None] == view.public_labels)
    is_public = (guesses[:, None] == public).all(2).any(1)
    assert bool(fitting.any())
    assert torch.equal(is_public, fitting.any(1))


def test_a_label_without_a_public_row_is_refused() -> None:
    view, _ = seat()
    with pytest.raises(NotApplicable, match="no public row has any of the labels"):
        answer("box-public-rows", replace(view, public_labels=torch.zeros_like(view.public_labels)))


def test_leaves_at_random_give_as_many_rows() -> None:
    view, _ = seat()
    assert answer("box-public-rows", view, "blind").shape == (40, 6)


def test_each_box_takes_the_public_row_of_its_label_that_violates_the_fewest_bounds() -> None:
    view, _ = seat()
    public = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [0.0, 0.0, 9.0], [5.0, 5.0, 2.0]])
    shown = replace(view, public=public, public_labels=torch.tensor([0, 0, 1, 1]))
    low = torch.tensor([[-1.0, -1.0, -1.0], [4.0, 4.0, 4.0], [5.0, -1.0, 9.0]])
    high = torch.tensor([[1.0, 1.0, 1.0], [6.0, 5.0, 6.0], [6.0, 1.0, 10.0]])
    boxes = RowBoxes(torch.tensor([1, 0, 1]), low, high)
    guesses = _find_public_rows(boxes, shown, torch.Generator().manual_seed(0))
    # The third row misses one bound of the first box and one of the last; an upper bound itself is outside.
    assert guesses.tolist() == [[0.0, 0.0, 1.0], [5.0, 5.0, 5.0], [5.0, 0.0, 9.0]]


def test_public_rows_that_fit_alike_are_drawn_at_random() -> None:
    view, _ = seat()
    shown = replace(view, public=torch.arange(8.0)[:, None], public_labels=torch.zeros(8, dtype=torch.long))
    boxes = RowBoxes(torch.zeros(200, dtype=torch.long), torch.full((200, 1), 2.0), torch.full((200, 1), 6.0))
    counts = _find_public_rows(boxes, shown, torch.Generator().manual_seed(0)).long().flatten().bincount(minlength=8)
    assert int(counts[2:6].sum()) == 200
    assert bool((counts[2:6] > 20).all())  # 50 each on average, with a deviation of 6
