"""Which tokens have the highest scores, and which numbers are refused."""

import torch

from fedsim.components.token_reducer._choosing import highest, refuses_count, refuses_layer
from fedsim.core.visual import VisualShape

SHAPE = VisualShape((4, 4), 3, 1, 4, 8, 8, 8)


def test_of_equal_scores_the_first_is_kept_and_places_ascend() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert highest(scores, 3).tolist() == [[1, 3, 4], [0, 1, 2]]
    assert highest(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert highest(scores, 4).tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_more_tokens_than_there_are_and_a_last_layer_are_refused() -> None:
    assert refuses_count(16, SHAPE) is None
    assert refuses_count(17, SHAPE) == "kept is 17, and an image has 16 visual tokens: expected at most as many"
    assert refuses_layer(2, SHAPE) is None
    assert refuses_layer(3, SHAPE) == (
        "layer is 3, and the language model has layers 0 to 3: expected at most 2, so that a layer follows"
    )
