"""Paraphrases and summaries: all answers and no others, and what parallel steps lose on them."""

import pytest
import torch

from fedsim.bench.parallel import OTHERS, Exact, Strategy, draw, measure
from fedsim.bench.rewordings import REWORDINGS, WORDS, Paraphrase, SummaryOfTwo
from fedsim.bench.theory import one_step_accuracy
from fedsim.data._lists import LETTERS


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(WORDS.index, text.split()))


@pytest.mark.paper_step("list-operations", "paraphrases, by a list of synonyms in place of models as judges")
def test_a_paraphrase_says_the_same_in_other_words() -> None:
    asked = Paraphrase("paraphrase", numbers("the old dog sees a small boat"))
    assert asked.is_answer(numbers("the aged dog sees a small boat"))
    for wrong in (
        "the old dog sees a small boat",
        "a old dog sees a small boat",
        "the quick dog sees a small boat",
        "the old hound sees a boat",
    ):
        assert not asked.is_answer(numbers(wrong))
    known = list(asked.answers())
    assert len(known) == len(set(known)) == 2**5 - 1
    assert all(map(asked.is_answer, known))


@pytest.mark.paper_step("list-operations", "summaries, by the grammar in place of references")
def test_a_summary_is_who_does_what_to_whom_of_one_sentence() -> None:
    first, second = numbers("the old dog sees a small boat"), numbers("a quick child likes the little guest")
    asked = SummaryOfTwo("summary", (first, second))
    assert asked.is_answer(numbers("a hound spots the boat"))
    assert asked.is_answer(numbers("the kid likes a visitor"))
    for wrong in ("the kid spots a visitor", "the old dog sees a boat", "the boat sees a dog"):
        assert not asked.is_answer(numbers(wrong))
    known = list(asked.answers())
    assert len(known) == len(set(known)) == 2 * 2**5
    assert all(map(asked.is_answer, known))
    twice = SummaryOfTwo("summary", (first, first))
    assert len(list(twice.answers())) == len(set(twice.answers())) == 2**5


@pytest.mark.parametrize("name", list(REWORDINGS))
def test_drawn_ones_are_the_same_for_a_seed_and_can_be_answered(name: str) -> None:
    assert name in OTHERS
    assert len(WORDS) <= LETTERS, "the exact model's end is numbered behind them"
    for seed in range(5):
        asked, again = (REWORDINGS[name](name, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert asked == again
        assert asked.is_answer(next(asked.answers()))


def test_in_one_step_a_paraphrase_is_nearly_always_right_and_a_summary_mixes_sentences() -> None:
    (asked,) = draw("paraphrase", [3], 1, 0)
    # All 32 wordings but one are right. Each of five words stays as it was with odds 15 / 31; only all five are wrong.
    assert one_step_accuracy(list(asked.answers())) == pytest.approx(1 - (15 / 31) ** 5)
    apart = SummaryOfTwo(
        "summary", (numbers("the old dog sees a small boat"), numbers("a quick child likes the old guest"))
    )
    assert one_step_accuracy(list(apart.answers())) == pytest.approx(2 * 0.5**3)


def test_one_place_a_step_is_always_right() -> None:
    one = Strategy("one", "fixed", {"temperature": 1.0, "confidence": "random"}, 1)
    for name in REWORDINGS:
        measured = measure(one, Exact(), draw(name, [3], 8, 0), 0)
        assert measured.accuracy.value == 1
