"""Right and hallucinated answers to questions about images, counted by hand."""

from typing import Any

import pytest
import torch

from fedsim.core.types import Generated, Trace
from fedsim.questions.generation.answers import judge_answers, share_of_prompts

WORDS = ("yes", "no", "d7", "r2", "<eos>")
YES, NO, D7, R2, END = range(5)


class Words:
    """A tokenizer whose tokens are words."""

    padding, begin, end, vocabulary = END, None, END, len(WORDS)
    ends = frozenset({END})

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]

    def decode(self, tokens: Any) -> str:
        return " ".join(WORDS[token] for token in tokens)


def texts(*rows: tuple[int, ...]) -> list[Generated]:
    return [Generated(trace=Trace((1,) * len(row), (), ()), ending="stop", tokens=row) for row in rows]


ANSWERS = torch.tensor([[NO, END, -100], [YES, END, -100], [NO, END, -100], [R2, D7, END]])


def judged(rows: list[tuple[int, ...]], prompts: list[int], answers: torch.Tensor = ANSWERS) -> dict[str, Any]:
    found = list(judge_answers(texts(*rows), prompts, answers, Words(), 0.95))
    assert {own.role for own in found} == {"context"}
    return {own.metric: own.value for own in found}


def test_an_answer_is_right_in_every_word_with_or_without_its_end() -> None:
    rows = [(NO,), (YES, END), (NO, END, D7), (R2, D7), (R2,), (R2, D7, YES), (D7, R2)]
    right = judged(rows, [0, 1, 2, 3, 3, 3, 3])["written_accuracy"]
    assert right.value == pytest.approx((1 + 1 + 1 + 1 / 4) / 4)
    assert right.n == 4


def test_a_hallucination_is_yes_where_the_object_is_absent() -> None:
    rows = [(YES, END), (YES, END), (NO, END), (D7, END), (YES, YES), (NO, END), (YES, END)]
    # Prompts 0 and 2 ask for an absent object; a wrong "no", another word and a longer text are no hallucination.
    figures = judged(rows, [0, 1, 0, 2, 2, 1, 2])
    assert figures["hallucination_rate"].value == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert figures["hallucination_rate"].n == 2


def test_without_a_question_for_an_absent_object_no_rate_is_given() -> None:
    assert set(judged([(R2, D7), (YES,)], [1, 0], ANSWERS[[1, 3]])) == {"written_accuracy"}


def test_prompts_count_alike_however_many_texts_they_have() -> None:
    share = share_of_prompts([True, False, False, True], [5, 9, 9, 9])
    assert (share.value, share.n) == (pytest.approx((1 + 1 / 3) / 2), 2)
    assert share.low < share.value
