"""Moves and changes of words keep to words and lengths."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.text._token_edits import change, orders


@pytest.mark.paper_step("lamp", "moves of words in turn")
@given(st.integers(1, 9), st.integers(0, 12), st.integers(0, 999))
def test_moves_keep_every_word(length: int, count: int, seed: int) -> None:
    found = orders(length, count, torch.Generator().manual_seed(seed))
    assert len(found) == count
    assert all(sorted(order) == list(range(length)) for order in found)


@given(st.integers(0, 999))
def test_a_change_keeps_to_the_words_and_lengths(seed: int) -> None:
    tokens, choices, endings = torch.tensor([[1, 2, 3, 9], [4, 5, 8, 0]]), torch.arange(1, 6), torch.tensor([8, 9])
    other = change(tokens, (3, 2), choices, endings, torch.Generator().manual_seed(seed))
    assert int((other != tokens).any(1).sum()) <= 1
    assert set(other[0, :3].tolist()) | set(other[1, :2].tolist()) <= set(choices.tolist())
    assert {int(other[0, 3]), int(other[1, 2])} <= set(endings.tolist())
    assert int(other[1, 3]) == 0
