"""Prefixes and arrangements in a span that is planted, against trying all of them."""

import itertools
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.text._prefixes import Front
from attacks.text._span_search import ScoredSentence, SpanReading, arrange, best, grow_prefixes
from attacks.text._span_tests import ShareThreshold
from attacks.text._subspaces import Subspace
from fedsim.core.types import InputSpec, Step

SENTENCES = ((1, 2, 3), (1, 4), (5, 2, 2, 1))
INSIDE, OUTSIDE = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
PLANE = Subspace("second", torch.diag(OUTSIDE.double()), 1.0, 0.0)
FIRST = Subspace("first", torch.diag(INSIDE.double()), 1.0, 0.0)


@dataclass
class Planted:
    """Reads inputs inside of the spans for tokens and beginnings of the sentences, and outside for all others."""

    places: bool = True

    def knows_places(self) -> bool:
        return self.places

    def read_first(self, tokens: Tensor) -> Tensor:
        known = {token for own in SENTENCES for token in own}
        return torch.stack([torch.stack([OUTSIDE if int(t) in known else INSIDE for t in row]) for row in tokens])

    def read_last(self, tokens: Tensor) -> list[Tensor]:
        beginnings = {own[:end] for own in SENTENCES for end in range(1, len(own) + 1)}
        return [torch.stack([INSIDE if tuple(row) in beginnings else OUTSIDE for row in tokens.tolist()])]

    def read_all(self, tokens: Tensor) -> list[Tensor]:
        whole = [tuple(t for t in row if t) in SENTENCES for row in tokens.tolist()]
        return [torch.stack([(INSIDE if own else OUTSIDE).expand(tokens.shape[1], 2) for own in whole])]


def reading(most: int = 100, **front: Any) -> SpanReading:
    return SpanReading(cast("Front", Planted(**front)), [FIRST, PLANE], ShareThreshold(tolerance=0.1, most=most))


def spec(length: int = 4) -> InputSpec:
    return InputSpec((length,), 8, (), (), vocabulary=8, padding=0)


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


def test_arrangements_are_those_that_trying_all_finds() -> None:
    tokens = [torch.tensor([1, 2, 4, 5])] * 4
    found = arrange(reading(), tokens, spec(), (10_000, 10), torch.Generator().manual_seed(0), lambda _step: None)
    every = {own for t in range(1, 5) for own in itertools.product([1, 2, 4, 5], repeat=t)}
    assert {own.tokens for own in found} == every & set(SENTENCES)
    few = [torch.tensor([1, 2]), torch.tensor([4])]  # 2 of one token and 2 of two
    exactly = arrange(reading(), few, spec(2), (4, 0), torch.Generator().manual_seed(0), lambda _step: None)
    assert {own.tokens for own in exactly} == {(1, 4)}
    with pytest.raises(NothingFound, match=r"none of 2 arrangements of the tokens that were tried, of 6,"):
        arrange(
            reading(), [torch.tensor([6, 7])] * 2, spec(2), (1, 2), torch.Generator().manual_seed(0), lambda _step: None
        )


def test_the_best_sentences_share_few_places() -> None:
    found = [
        ScoredSentence((1, 2, 3), 0.2),
        ScoredSentence((1, 2, 4), 0.1),
        ScoredSentence((5, 6, 7), 0.3),
        ScoredSentence((7, 7, 7), 0.4),
    ]
    assert best(found, 2, 0.6) == [found[1], found[2]]
    assert best(found, 3, 1.0) == [found[1], found[0], found[2]]
