"""Scores of text against brute force."""

import itertools
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.types import Batch, Planted, Reconstruction
from fedsim.data._tokenizer import WordTokenizer
from fedsim.metrics.text import (
    common_subsequence,
    is_every_word,
    rouge_l,
    rouge_n,
    score_sentences,
    score_words,
    token_accuracy,
)

SHORT = st.lists(st.integers(0, 3), max_size=6)


def brute_force(first: Sequence[int], second: Sequence[int]) -> int:
    def subsequences(of: Sequence[int], length: int) -> set[tuple[int, ...]]:
        return set(itertools.combinations(of, length))

    shortest = min(len(first), len(second))
    return max(n for n in range(shortest + 1) if subsequences(first, n) & subsequences(second, n))


@given(SHORT, SHORT)
def test_the_longest_common_subsequence_is_that_of_brute_force(first: list[int], second: list[int]) -> None:
    assert common_subsequence(first, second) == brute_force(first, second)


@given(SHORT, SHORT)
def test_rouge_is_the_harmonic_mean_of_recall_and_precision(first: list[int], second: list[int]) -> None:
    common = brute_force(first, second)
    if not common:
        assert rouge_l(first, second) == (0.0 if first or second else 1.0)
        return
    recall, precision = common / len(second), common / len(first)
    assert abs(rouge_l(first, second) - 2 * recall * precision / (recall + precision)) < 1e-12


def test_token_accuracy_counts_places() -> None:
    assert token_accuracy([1, 2, 3], [1, 9, 3, 4]) == 0.5
    assert token_accuracy([], [1]) == 0.0
    assert token_accuracy([1], []) == token_accuracy([], []) == 1.0  # all that there is was found


def reconstruction(rows: list[list[int]]) -> Reconstruction:
    inputs = torch.tensor(rows, dtype=torch.long).reshape(len(rows), len(rows[0]) if rows else 3)
    return Reconstruction(inputs, torch.zeros(len(rows)), None, 0.0, 0, 0, (), "ended")


def test_sentences_are_matched_in_any_order_and_a_missing_one_has_no_guess() -> None:
    a, b, c = ord("a"), ord("b"), ord("c")
    batch = Batch(torch.tensor([[a, b, c], [c, 256, 256]]), torch.tensor([[b, c, 257], [257, -100, -100]]))
    swapped = score_sentences(reconstruction([[c, -1, -1], [a, b, c]]), batch, WordTokenizer())
    assert swapped.order.tolist() == [1, 0]
    assert all(
        sentence.values["exact"] and sentence.values["rouge_l"] == sentence.values["token_accuracy"] == 1.0
        for sentence in swapped.sentences
    )
    assert [sentence.text for sentence in swapped.sentences] == ["abc", "c"]
    tagged = Batch(batch.inputs, torch.tensor([[1, -100, 0], [0, -100, -100]]))
    assert (
        score_sentences(reconstruction([[c, -1, -1], [a, b, c]]), tagged, WordTokenizer()).sentences
        == swapped.sentences
    )
    missing = score_sentences(reconstruction([[a, b, -1]]), batch, WordTokenizer())
    assert missing.order.tolist() == [0, -1]
    assert [sentence.guess for sentence in missing.sentences] == ["ab", ""]
    assert [sentence.values["exact"] for sentence in missing.sentences] == [False, False]
    nothing = score_sentences(reconstruction([]), batch, WordTokenizer())
    assert [sentence.values["token_accuracy"] for sentence in nothing.sentences] == [0.0, 0.0]


def test_the_first_token_of_a_vocabulary_is_one_like_others() -> None:
    found = reconstruction([[5, 0, 7], [0, 0, -1]])
    batch = Batch(torch.tensor([[0, 0, 256], [5, 0, 7]]), torch.zeros(2))
    scores = score_sentences(found, batch, WordTokenizer()).sentences
    assert [score.values["exact"] for score in scores] == [True, True]


def test_of_guesses_with_as_many_right_tokens_the_one_of_the_right_length_is_matched() -> None:
    batch = Batch(torch.tensor([[97, 98, 256, 256]]), torch.zeros(1))
    guesses = reconstruction([[97, 98, 99, -1], [97, 98, -1, -1], [97, 98, 99, 100]])
    assert score_sentences(guesses, batch, WordTokenizer()).order.tolist() == [1]
    longer = Batch(torch.tensor([[97, 98, 99, 100]]), torch.zeros(1))
    guesses = reconstruction([[97, -1, -1, -1], [97, 1, 1, 1], [97, 1, -1, -1]])
    assert score_sentences(guesses, longer, WordTokenizer()).order.tolist() == [1]


def test_a_token_too_many_is_not_exact() -> None:
    batch = Batch(torch.tensor([[97, 98, 256]]), torch.tensor([[98, 257, -100]]))
    (own,) = score_sentences(reconstruction([[97, 98, 99]]), batch, WordTokenizer()).sentences
    assert own.values["token_accuracy"] == 1.0
    assert not own.values["exact"]


def test_a_planted_span_is_read_when_any_guess_holds_it() -> None:
    def row(text: str) -> list[int]:
        return [*text.encode(), *[256] * (12 - len(text))]

    batch = Batch(torch.tensor([row("call 555-1."), row("nothing"), row("call 555-2.")]), torch.zeros(3))
    guesses = reconstruction(
        [[*text.encode(), *[-1] * (12 - len(text))] for text in ("call 777-7.", "or 555-1", "nothing")]
    )
    scored = score_sentences(guesses, batch, WordTokenizer(), ["555-1", "555-2", ""]).sentences
    assert [(own.secret, own.values.get("secret_read")) for own in scored] == [
        ("555-1", True),
        (None, None),
        ("555-2", False),
    ]
    plain = score_sentences(guesses, batch, WordTokenizer()).sentences
    assert [own.secret for own in plain] == [None] * 3


def test_of_a_planted_sentence_the_number_is_secret() -> None:
    assert (
        Planted("identity", "The phone number of Ada is 555-0199.", (3,), "The phone number of Ada is").span
        == "555-0199"
    )


@given(SHORT, SHORT, st.integers(1, 3))
def test_n_grams_in_common_are_those_of_brute_force(guess: list[int], original: list[int], size: int) -> None:
    grams = [[tuple(own[i : i + size]) for i in range(len(own) - size + 1)] for own in (guess, original)]
    left, common = list(grams[1]), 0
    for gram in grams[0]:
        if gram in left:
            left.remove(gram)
            common += 1
    total = len(grams[0]) + len(grams[1])
    assert rouge_n(guess, original, size) == (2 * common / total if total else 1.0)


def test_rouge_is_taken_of_the_words_of_the_guess_that_is_matched() -> None:
    """By hand: 3 of 4 words each way, one pair of three in common, and a common subsequence of two words."""

    def row(text: str, filling: int) -> list[int]:
        return [*text.encode(), *[filling] * (24 - len(text))]

    batch = Batch(torch.tensor([row("one two three four", 256), row("nothing", 256)]), torch.zeros(2))
    guesses = reconstruction([row("nothing", -1), row("two three five one", -1)])
    first, second = score_sentences(guesses, batch, WordTokenizer()).sentences
    assert (first.values["rouge_1"], first.values["rouge_2"], first.values["rouge_l"]) == (3 / 4, 1 / 3, 1 / 2)
    assert (second.values["rouge_1"], second.values["rouge_2"], second.values["rouge_l"]) == (1.0, 1.0, 1.0)
    (missing, _) = score_sentences(reconstruction([]), batch, WordTokenizer()).sentences
    assert (missing.values["rouge_1"], missing.values["rouge_2"], missing.values["rouge_l"]) == (0.0, 0.0, 0.0)


def test_words_count_once_wherever_they_stand() -> None:
    batch = Batch(torch.tensor([[1, 2, 1], [3, 256, 256]]), torch.tensor([[2, 1, 4], [5, -100, -100]]))
    assert score_words(reconstruction([[3, 1, 7], [8, -1, -1]]), batch, WordTokenizer()) == {
        "words_found": 2 / 3,
        "words_right": 0.5,
    }
    assert score_words(reconstruction([]), batch, WordTokenizer()) == {
        "words_found": 0.0,
        "words_right": 0.0,
    }
    padding = Batch(torch.full((1, 3), 256), torch.full((1, 3), -100))
    assert score_words(reconstruction([[3, 1, 7]]), padding, WordTokenizer()) == {
        "words_found": 0.0,
        "words_right": 0.0,
    }


def test_every_word_is_read_only_where_none_is_missing_and_none_too_many() -> None:
    padding = WordTokenizer().padding
    batch = Batch(torch.tensor([[3, 1, 3], [8, 1, padding]]), torch.zeros(2, dtype=torch.long))
    for read, expected in (([1, 3, 8], True), ([8, 3, 1, padding], True), ([1, 3], False), ([1, 3, 8, 9], False)):
        assert is_every_word(torch.tensor(read), batch, WordTokenizer()) is expected
