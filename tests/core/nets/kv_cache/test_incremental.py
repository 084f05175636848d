"""One pass over new tokens, layer by layer, against the model's own forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedsim.core.nets.kv_cache import Draft, IncrementalForward, KVCache, stack_of
from tests.components.generating import tiny_llama
from tests.core.nets.kv_cache.anew import ROUNDING, TREE, anew


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def passed(reading: IncrementalForward, stack: object) -> Tensor:
    hidden = reading.embed()
    for number in range(stack.depth):  # type: ignore[attr-defined]
        hidden = reading.layer(number, hidden)
    return stack.score(hidden)  # type: ignore[attr-defined]


def test_rows_of_other_lengths_and_a_tree_have_the_scores_of_reading_each_alone() -> None:
    model = tiny_llama().eval()
    stack = stack_of(model)
    store, texts = KVCache(stack.depth, 2), [[1, 2, 3], [4]]
    reading = IncrementalForward(stack, store, texts, [0, 0], [TREE, Draft()])
    scores = passed(reading, stack)
    assert reading.counts == [3 + len(TREE), 1]
    assert store.held == [reading.counts] * stack.depth
    ways = [[3], [4], [3, 5], [4, 3], [3, 5, 6]]  # of the nodes of the tree
    for place, way in enumerate(ways, 3):
        torch.testing.assert_close(scores[0, place], anew(model, [1, 2, 3, *way]), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(scores[1, 0], anew(model, [4]), rtol=0, atol=ROUNDING)


def test_each_row_sees_the_branches_of_its_own_tree() -> None:
    model = tiny_llama().eval()
    stack = stack_of(model)
    other = Draft((3, 4, 5, 3, 6), (-1, 0, 0, 1, -1))
    reading = IncrementalForward(stack, KVCache(stack.depth, 2), [[1, 2], [4, 5]], [0, 0], [TREE, other])
    scores = passed(reading, stack)
    for row, (text, ways) in enumerate(
        (
            ([1, 2], [[3], [4], [3, 5], [4, 3], [3, 5, 6]]),
            ([4, 5], [[3], [3, 4], [3, 5], [3, 4, 3], [6]]),
        )
    ):
        for place, way in enumerate(ways, 2):
            torch.testing.assert_close(scores[row, place], anew(model, [*text, *way]), rtol=0, atol=ROUNDING)


def test_what_follows_a_kept_text_is_read_at_its_place() -> None:
    model = tiny_llama().eval()
    stack = stack_of(model)
    store = KVCache(stack.depth, 2)
    passed(IncrementalForward(stack, store, [[1, 2, 3], [4]], [0, 0], [Draft(), Draft()]), stack)
    scores = passed(IncrementalForward(stack, store, [[5], [6, 7]], [3, 1], [Draft(), Draft()]), stack)
    torch.testing.assert_close(scores[0, 0], anew(model, [1, 2, 3, 5]), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(scores[1, 1], anew(model, [4, 6, 7]), rtol=0, atol=ROUNDING)
    assert store.held == [[4, 3]] * stack.depth


def test_a_single_token_of_equal_rows_needs_no_mask() -> None:
    model = tiny_llama().eval()
    stack = stack_of(model)
    one = IncrementalForward(stack, KVCache(2, 1), [[1]], [0], [Draft()])
    assert one._mask((0,), one.embed()) is None
    two = IncrementalForward(stack, KVCache(2, 1), [[1, 2]], [0], [Draft()])
    assert two._mask((0,), two.embed())[0, 0].tolist() == [[0.0, -torch.inf], [0.0, 0.0]]
