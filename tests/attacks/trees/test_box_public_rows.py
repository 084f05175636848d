"""Guesses are public rows of the label, moved into their boxes."""

from dataclasses import replace

import pytest
import torch

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
