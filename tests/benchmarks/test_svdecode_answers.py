"""Sums in words that the benchmark of steering asks: how they are written, which count, and what is right."""

from collections.abc import Sequence

from benchmarks.svdecode_answers import encoded, is_right, pairs, question, word
from fedsim.core.losses import IGNORED


class Bytes:
    """Signs of ASCII are one token each."""

    vocabulary, padding, begin, end = 128, 0, None, 0
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        return list(text.encode("ascii"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("ascii")


def test_numbers_are_written_as_they_are_said() -> None:
    assert [word(own) for own in (2, 13, 20, 21, 38, 40)] == [
        "two",
        "thirteen",
        "twenty",
        "twenty-one",
        "thirty-eight",
        "forty",
    ]
    assert len({word(number) for number in range(50)}) == 50


def test_nobody_is_asked_what_was_learned_or_calibrated_on() -> None:
    parts = pairs()
    assert [len(part) for part in parts] == [300, 40, 60]
    assert len({pair for part in parts for pair in part}) == 400


def test_only_the_answer_counts_and_every_token_predicts_the_next() -> None:
    asked = [(1, 2), (20, 15)]
    batch = encoded(Bytes(), asked)
    for pair, inputs, labels in zip(asked, batch.inputs, batch.labels, strict=True):
        counts = labels != IGNORED
        answer = word(sum(pair)) + "\n"
        assert Bytes().decode(labels[counts].tolist()) == answer
        assert Bytes().decode(inputs[counts].tolist()) == question(pair)[-1] + answer[:-1]


def test_the_right_word_alone_in_its_line_is_right() -> None:
    assert is_right("three\nWhat", (1, 2))
    assert not any(is_right(own, (1, 2)) for own in ("3\n", "thirty\n", "\nthree", "three plus", ""))
