"""Which tokens have the highest scores, and which numbers are refused."""

from dataclasses import replace

import torch

from fedsim.components.token_reducer._choosing import highest, or_best, refuses_count, refuses_layer
from fedsim.core.nets.visual import Stream, VisualShape

SHAPE = VisualShape((4, 4), 3, 1, 4, 8, 8)


def test_of_equal_scores_the_first_is_kept_and_places_ascend() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert highest(scores, 3).tolist() == [[1, 3, 4], [0, 1, 2]]
    assert highest(scores, 2).tolist() == [[1, 3], [0, 1]]
    assert highest(scores, 4).tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_the_best_token_stays_where_an_example_would_keep_none_and_only_there() -> None:
    patches = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, -1]])
    stream = Stream(torch.zeros(3, 3, 2), torch.arange(3).expand(3, 3), patches, front=0)
    kept = torch.tensor([[True, False, False], [False, False, False], [False, False, True]])
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [3.0, 1.0, 9.0]])
    # The third example keeps what only fills up: it gets the best of its own tokens.
    expected = [[True, False, False], [False, True, False], [True, False, True]]
    assert or_best(kept, scores, stream).tolist() == expected
    assert or_best(kept[:1], scores[:1], replace(stream, patches=patches[:1])).tolist() == expected[:1]


def test_more_tokens_than_there_are_and_a_last_layer_are_refused() -> None:
    assert refuses_count(16, SHAPE) is None
    assert refuses_count(17, SHAPE) == "kept is 17, and an image has 16 visual tokens: expected at most as many"
    assert refuses_layer(2, SHAPE) is None
    assert refuses_layer(3, SHAPE) == (
        "layer is 3, and the language model has layers 0 to 3: expected at most 2, so that a layer follows"
    )
