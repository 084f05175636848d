"""Prefixes in a span that is planted, against trying all of them."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.core.results import NothingFound
from attacks.text._prefixes import Front
from attacks.text._span_search import ScoredSentence, SpanReading, best, grow_prefixes, read_sentences
from attacks.text._span_tests import ShareThreshold
from attacks.text._subspaces import Subspace
from fedsim.core.types import Step
from tests.attacks.text.planted import SENTENCES, Planted, reading, spec


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
    with pytest.raises(NothingFound, match="no recovered token begins a sentence"):
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


class Faint(Planted):
    """Reads in 40 dimensions, and the last token of the second sentence a little outside of the second span."""

    def read_first(self, tokens: Tensor) -> Tensor:
        return F.pad(super().read_first(tokens), (0, 38))

    def read_behind(self, prefixes: Tensor, tokens: Tensor) -> list[Tensor]:
        [read] = super().read_behind(prefixes, tokens)
        if prefixes.shape[1] == 1:
            read[prefixes[:, 0] == 1, tokens == 4, 1] = 1e-3
        return [F.pad(read, (0, 38))]


@pytest.mark.parametrize(("size", "sentences"), [(7, ((1, 2, 3), (5, 2, 2, 1))), (8, SENTENCES)])
def test_all_is_read_again_with_more_tolerance_where_a_span_has_more_directions_than_inputs(
    size: int, sentences: tuple[tuple[int, ...], ...]
) -> None:
    """Of the eight beginnings of the three sentences seven are read at first: all but (1, 4)."""
    outside = torch.eye(40).double()
    spaces = [Subspace("first", outside.clone(), 5.0, 0.0), Subspace("second", outside.clone(), float(size), 0.0)]
    spaces[0].outside[1, 1], spaces[1].outside[0, 0] = 0.0, 0.0
    planted = SpanReading(cast("Front", Faint(places=False)), spaces, ShareThreshold(5e-4, 100))
    _, read = read_sentences(planted, spec(), lambda _step: None)
    assert sorted(one.tokens for one in read) == sorted(sentences)
