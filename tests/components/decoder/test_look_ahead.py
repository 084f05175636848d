"""Scores of several texts of a row: those of reading each alone, and nothing is asked or read twice."""

import random

import pytest
import torch

from fedsim.components.decoder._look_ahead import LookAhead
from fedsim.core.errors import CannotContinue
from tests.components.generating import VOCABULARY, Breaking, tiny_llama
from tests.core.past.anew import ROUNDING, anew

TEXTS = [(1, 2), (3,), (1, 2), (1, 2), (4, 5, 6)]
OWNERS = [0, 1, 0, 1, 1]


def test_scores_are_those_of_each_text_and_equal_texts_of_a_row_are_asked_once() -> None:
    model = tiny_llama().eval()
    with torch.no_grad():
        found = LookAhead().scores(model, TEXTS, OWNERS, 3)
        for text, scores in zip(TEXTS, found.scores, strict=True):
            torch.testing.assert_close(scores, anew(model, text), rtol=0, atol=ROUNDING)
    assert found.shown == [1, 3, 0]


def test_texts_that_branch_end_and_come_back_have_the_scores_of_reading_anew() -> None:
    model, own, dice = tiny_llama().eval(), LookAhead(), random.Random(0)
    texts = [(1, 2), (1, 2), (3,)]
    with torch.no_grad():
        for _ in range(12):
            found = own.scores(model, texts, range(len(texts)), len(texts))
            for text, scores in zip(texts, found.scores, strict=True):
                torch.testing.assert_close(scores, anew(model, text), rtol=0, atol=ROUNDING)
            kept = [dice.choice(texts) for _ in range(3)]
            texts = [(*one[: dice.randint(1, len(one))], dice.randrange(VOCABULARY)) for one in kept]


def test_a_text_that_goes_on_from_one_that_was_asked_is_read_from_there() -> None:
    model, own, read = tiny_llama().eval(), LookAhead(), list[int]()
    model.get_submodule("embed_tokens").register_forward_hook(lambda _m, args, _o: read.append(args[0].numel()))
    with torch.no_grad():
        own.scores(model, [(1, 2, 3)], [0], 1)
        own.scores(model, [(1, 2, 3, 4), (1, 2, 3, 5)], [0, 0], 1)
    assert read == [3, 2]
    assert own.keep([0]) is own


def test_rows_whose_texts_have_no_scores_are_named_by_their_place() -> None:
    model = Breaking(tiny_llama(), token=3, length=1).eval()
    with torch.no_grad(), pytest.raises(CannotContinue, match="no finite numbers") as raised:
        LookAhead().scores(model, TEXTS, OWNERS, 3)
    assert list(raised.value.rows) == [1]
