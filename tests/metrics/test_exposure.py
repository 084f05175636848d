"""Exposure against enumeration, and against what chance gives."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.data._tokenizer import WordTokenizer
from fedsim.metrics.exposure import (
    SecretScore,
    alternatives,
    common_beginning,
    exposure,
    fill,
    log_perplexities,
    mean_over_prefixes,
    share_likeliest,
    space_of,
)
from fedsim.metrics.statistics import wilson
from tests.components.unmasking import MaskAmongWords, tiny_llada

TOKENIZER = WordTokenizer()


class Bigrams(nn.Module):
    """Each token says the next; the sum over what was read makes the order of the past matter too."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(258, 16, generator=generator))
        self.head = nn.Linear(16, 258, bias=False)
        self.head.weight.data = torch.randn(258, 16, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        own = self.embedding(tokens)
        return self.head(own + 0.5 * own.cumsum(1))


def bits_by_hand(model: nn.Module, tokens: Sequence[int]) -> float:
    probabilities = model(torch.tensor([tokens])).double().log_softmax(-1)[0]
    return -sum(float(probabilities[at, token]) for at, token in enumerate(tokens[1:])) / math.log(2.0)


def test_a_form_is_filled_in_every_way_once() -> None:
    assert space_of(" #-?.") == 260
    texts = [fill(" #-?.", number) for number in range(260)]
    assert texts == sorted(set(texts))
    assert (texts[0], texts[-1]) == (" 0-a.", " 9-z.")


@example(3, 998, 0)
@example(3, 999, 0)
@example(3, 1000, 0)
@given(st.integers(0, 999), st.integers(1, 2000), st.integers(0, 5))
def test_alternatives_are_different_and_leave_the_secret_out(secret: int, most: int, seed: int) -> None:
    own = fill("###", secret)
    found = alternatives("###", own, most, np.random.default_rng(seed))
    assert own not in found.texts
    assert len(set(found.texts)) == len(found.texts) == min(most, 999)
    assert found.is_complete == (most >= 999)


@given(st.lists(st.lists(st.integers(0, 255), min_size=2, max_size=9), min_size=1, max_size=5))
@torch.no_grad()
def test_bits_of_a_sentence_are_those_of_its_tokens_whatever_stands_beside_it(sentences: list[list[int]]) -> None:
    model = Bigrams()
    found = log_perplexities(model, sentences, TOKENIZER)
    expected = torch.tensor([bits_by_hand(model, own) for own in sentences], dtype=torch.double)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("vocabulary", "expected"), [(2**21, [2, 2, 1]), (2**30, [1, 1, 1, 1, 1])])
def test_so_many_sentences_are_scored_together_as_memory_is_meant_for(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, expected: list[int]
) -> None:
    """2^24 scores at once: of 4 tokens and 2^21 words each, those of two sentences."""
    monkeypatch.setattr(WordTokenizer, "vocabulary", vocabulary)
    shown: list[int] = []

    class Noting(Bigrams):
        def forward(self, tokens: Tensor) -> Tensor:
            shown.append(len(tokens))
            return super().forward(tokens)

    log_perplexities(Noting(), [[1, 2, 3, 4]] * 5, TOKENIZER)
    assert shown == expected


@torch.no_grad()
def test_a_model_that_fills_in_places_has_a_probability_for_every_sentence_and_they_sum_to_one() -> None:
    model = tiny_llada(vocabulary=3, length=4)
    behind = [list(own) for length in (1, 3) for own in itertools.product(range(3), repeat=length)]
    bits = log_perplexities(model, [[1, *own] for own in behind], TOKENIZER)
    torch.testing.assert_close((2**-bits).split([3, 27])[0].sum(), torch.tensor(1.0, dtype=torch.double))
    torch.testing.assert_close((2**-bits).split([3, 27])[1].sum(), torch.tensor(1.0, dtype=torch.double))
    only = model(torch.tensor([[1, 3]]))[0, 1].log_softmax(-1) / -math.log(2.0)
    torch.testing.assert_close(bits[:3], only)
    renumbered = MaskAmongWords(model, 1)  # words 0, 2 and 3
    sentences = [[renumbered.number(word) for word in [1, *own]] for own in behind]
    torch.testing.assert_close(log_perplexities(renumbered, sentences, TOKENIZER), bits)


@torch.no_grad()
def test_exposure_is_the_rank_among_all_fillings() -> None:
    model, secret = Bigrams(), " 4-x."
    others = alternatives(" #-?.", secret, 500, np.random.default_rng(0))
    assert others.is_complete
    bits = log_perplexities(model, [list(own.encode()) for own in (secret, *others.texts)], TOKENIZER)
    ranked = sorted(range(260), key=lambda n: bits_by_hand(model, list(fill(" #-?.", n).encode())))
    rank = 1 + [fill(" #-?.", n) for n in ranked].index(secret)
    assert exposure(float(bits[0]), bits[1:]) == pytest.approx(math.log2(260) - math.log2(rank))


def test_the_likeliest_sentence_has_all_bits_the_unlikeliest_none_and_equals_stand_in_the_middle() -> None:
    others = torch.arange(1.0, 1024.0)
    assert exposure(0.0, others) == 10.0
    assert exposure(1e6, others) == 0.0
    assert exposure(3.0, torch.full((1023,), 3.0)) == pytest.approx(10.0 - math.log2(1 + 1023 / 2))


def test_chance_gives_t_bits_or_more_with_probability_two_to_the_minus_t() -> None:
    draws = torch.rand(4000, 1024, generator=torch.Generator().manual_seed(1))
    bits = np.array([exposure(float(own[0]), own[1:]) for own in draws])
    for threshold in (1.0, 2.0, 4.0):
        assert np.mean(bits >= threshold) == pytest.approx(2.0**-threshold, abs=4 * math.sqrt(2.0**-threshold / 4000))
    assert bits.mean() == pytest.approx(math.log2(math.e), abs=4 * bits.std() / math.sqrt(4000))


def test_two_texts_begin_alike_until_they_differ() -> None:
    assert common_beginning([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_beginning([1, 2], [1, 2, 4]) == 2
    assert common_beginning([], [1]) == 0


def test_a_search_finds_a_secret_where_it_gives_that_very_text() -> None:
    alike = [
        SecretScore("canary", "a", 4, 4, 1.0, candidates=7, is_exact=False, guess="a", extracted=True, likeliest=text)
        for text in ("a", "b", None, None)
    ]
    assert share_likeliest(alike) == wilson(1, 4)


def test_beginnings_are_the_units_and_of_one_alone_its_runs() -> None:
    one, other, third = (0.5, 0.25, 0.75), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert mean_over_prefixes([one, one], np.random.default_rng(0)).n == 3
    every = mean_over_prefixes([one, other, third, third], np.random.default_rng(0))
    assert (every.value, every.n) == (0.5, 3)
