"""Prefixes in a span that is planted, against trying all of them."""

import pytest
import torch

from attacks.core.results import NothingFound
from attacks.text._span_search import ScoredSentence, best, grow_prefixes
from fedsim.core.types import Step
from tests.attacks.text.planted import SENTENCES, reading, spec


def test_tokens_in_the_first_span_are_found_at_every_place() -> None:
    for places in (True, False):
        found = reading(places=places).tokens(spec())
        assert [own.tolist() for own in found] == [[1, 2, 3, 4, 5]] * 4


def test_the_prefixes_that_cannot_go_on_are_the_sentences() -> None:
    steps: list[Step] = []
    found = grow_prefixes(reading(), reading().tokens(spec()), steps.append)
    assert sorted(own.tokens for own in found) == sorted(SENTENCES)
    assert all(own.score == 0.0 for own in found)
    assert [len(step.guess) for step in steps] == [2, 3, 2, 1]


def test_too_many_prefixes_or_none_are_no_answer() -> None:
    with pytest.raises(NothingFound, match="3 prefixes"):
        grow_prefixes(reading(most=2), reading().tokens(spec()), lambda _step: None)
    with pytest.raises(NothingFound, match="no token that was read begins a sentence"):
        grow_prefixes(reading(), [torch.tensor([3, 4])] * 4, lambda _step: None)


def test_the_best_sentences_share_few_places() -> None:
    found = [
        ScoredSentence((1, 2, 3), 0.2),
        ScoredSentence((1, 2, 4), 0.1),
        ScoredSentence((5, 6, 7), 0.3),
        ScoredSentence((7, 7, 7), 0.4),
    ]
    assert best(found, 2, 0.6) == [found[1], found[2]]
    assert best(found, 3, 1.0) == [found[1], found[0], found[2]]
