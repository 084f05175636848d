"""Spans by hand, against a regular expression, and the corpus count against brute force."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.metrics.tagging import SpanScore, TaggedSpan, are_spans, score_spans, spans

NAMES = ("O", "B-a", "I-a", "B-b", "I-b")
TAGS = st.lists(st.sampled_from(NAMES), max_size=8)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-a", [(0, 1, "a")]),
        ("B-a I-a O", [(0, 2, "a")]),
        ("B-a B-a I-a", [(0, 1, "a"), (1, 3, "a")]),  # adjacent
        ("O I-a I-a", []),  # inside without a beginning
        ("I-a B-a", [(1, 2, "a")]),
        ("B-a I-b I-a", [(0, 1, "a")]),  # another type inside ends it
        ("B-a O I-a", [(0, 1, "a")]),
        ("B-a I-a B-b I-b I-b", [(0, 2, "a"), (2, 5, "b")]),
        ("B-in-law I-in-law I-in", [(0, 2, "in-law")]),
    ],
)
def test_spans_by_hand(tags: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans(tags.split()) == [TaggedSpan(*span) for span in expected]


@given(TAGS)
def test_spans_are_those_of_a_regular_expression(tags: list[str]) -> None:
    letters = {"O": "o", "B-a": "A", "I-a": "a", "B-b": "B", "I-b": "b"}
    written = "".join(letters[tag] for tag in tags)
    expected = [TaggedSpan(*found.span(), found[0][0].lower()) for found in re.finditer("Aa*|Bb*", written)]
    assert spans(tags) == expected


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=5, max_size=5), min_size=1))
def test_the_corpus_count_is_that_of_all_sentences_together(sentences: list[list[tuple[int, int]]]) -> None:
    guesses, labels = (torch.tensor([[pair[i] for pair in sentence] for sentence in sentences]) for i in (0, 1))
    expected = [0, 0, 0]
    for guess, label in zip(guesses.tolist(), labels.tolist(), strict=True):
        own, other = (spans([NAMES[number] for number in row]) for row in (guess, label))
        expected = [a + b for a, b in zip(expected, (sum(s in other for s in own), len(own), len(other)), strict=True)]
    found = score_spans(guesses, labels, NAMES)
    assert list(found) == expected
    if found.right:
        assert found.f1 == pytest.approx(2 / (1 / found.precision + 1 / found.recall))


def test_places_that_are_ignored_are_no_words() -> None:
    labels = torch.tensor([[1, -100, 2, 0, -100]])
    assert score_spans(torch.tensor([[1, 3, 2, 0, 1]]), labels, NAMES) == SpanScore(1, 1, 1)
    assert score_spans(torch.tensor([[1, 3, 0, 0, 1]]), labels, NAMES) == SpanScore(0, 1, 1)


def test_edges() -> None:
    assert (SpanScore(0, 0, 0).f1, SpanScore(0, 0, 0).precision, SpanScore(0, 0, 0).recall) == (1.0, 0.0, 0.0)
    assert (SpanScore(0, 2, 0).f1, SpanScore(1, 2, 4).f1) == (0.0, 1 / 3)
    assert are_spans(NAMES)
    assert not are_spans(("O", "B"))
    assert not are_spans(("NOUN", "VERB"))
