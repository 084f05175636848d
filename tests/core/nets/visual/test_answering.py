"""Models that write answers, and reducers that act for a while."""

import pytest
import torch
from torch import nn

from fedsim.core.nets.visual import VisualReducer, add_reducer, can_answer
from tests.models.vlms import small_vlm


class Counting(VisualReducer):
    seen = 0

    def look(self, images, question):
        self.seen += 1
        return {}


def test_a_vision_language_model_answers_and_others_do_not() -> None:
    assert can_answer(small_vlm())
    assert not can_answer(nn.Linear(2, 2))


def test_a_reducer_acts_in_its_context_alone() -> None:
    model, own, first = small_vlm(), Counting(), Counting()
    model.reducers.append(first)
    images, question = torch.zeros(1, 1, 28, 28, dtype=torch.double), torch.zeros(1, 4, dtype=torch.long)
    with add_reducer(model, own):
        model.encode(images, question)
    model.encode(images, question)
    assert (own.seen, first.seen) == (1, 2)
    with pytest.raises(ValueError, match="broken"), add_reducer(model, own):
        raise ValueError("broken")
    assert list(model.reducers) == [first]
