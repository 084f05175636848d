"""Midpoints lie in the middle of boxes, within public ranges."""

import pytest
import torch

from fedsim.questions.trees.types import RowBoxes
from tests.attacks.trees.seats import answer, seat


@pytest.mark.paper_step("box-midpoints", "midpoints of the boxes")
def test_guesses_are_the_middles_of_the_boxes_within_public_ranges() -> None:
    view, _ = seat()
    boxes = RowBoxes.from_tensor(answer("boxes", view, tries=2))
    low, high = boxes.low.maximum(view.public.amin(0)), boxes.high.minimum(view.public.amax(0))
    assert torch.equal(answer("box-midpoints", view, tries=2).float(), (low + high) / 2)
