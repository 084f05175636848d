"""Scores of several texts of a row: those of each text alone, and each text asked once."""

import pytest
import torch

from fedsim.components.decoder import _look_ahead
from fedsim.components.decoder._look_ahead import scores_behind
from fedsim.core.errors import CannotContinue
from fedsim.core.hooks import Writing
from tests.components.generating import Breaking, make, tiny_llama

TEXTS = [(1, 2), (3,), (1, 2), (1, 2), (4, 5, 6)]
OWNERS = [0, 1, 0, 1, 1]


@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_scores_are_those_of_each_text_and_equal_texts_of_a_row_are_asked_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_look_ahead, "_AT_ONCE", at_once)
    decoder, model = make("greedy"), tiny_llama().eval()
    with torch.no_grad():
        found = scores_behind(decoder, model, TEXTS, OWNERS, 3)
        for text, scores in zip(TEXTS, found.scores, strict=True):
            expected = decoder.next_scores(model, Writing((text,)))[0]
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)  # double precision, other batches
    assert found.shown == [1, 3, 0]


def test_rows_whose_texts_have_no_scores_are_named_by_their_place() -> None:
    model = Breaking(tiny_llama(), token=3, length=1).eval()
    with torch.no_grad(), pytest.raises(CannotContinue, match="no finite numbers") as raised:
        scores_behind(make("greedy"), model, TEXTS, OWNERS, 3)
    assert list(raised.value.rows) == [1]
