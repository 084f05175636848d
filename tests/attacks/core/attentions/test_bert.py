"""Encoders that look ahead: DAGER reads the sentences of a classifier off one gradient, and no others."""

import pytest
import torch

from attacks.text._read_spans import read_spans
from attacks.text.dager import DagerConfig
from fedsim.core.errors import NotApplicable
from tests.attacks.core.attentions.classifiers import LENGTH, attacked, encoder, observed, read, sentences


@pytest.mark.parametrize("count", [1, 4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_all_sentences_of_a_batch_are_exact(count: int, seed: int) -> None:
    tokens = sentences(count, seed)
    result = attacked("dager", observed(encoder(seed), tokens))
    assert read(result) == set(map(tuple, tokens.tolist()))
    assert not result.notes


def test_sentences_of_another_batch_and_of_two_mixed_ones_lie_outside_the_span() -> None:
    tokens, others, tolerance = sentences(4, 1), sentences(4, 2), DagerConfig().tolerance
    reading = read_spans(observed(encoder(1), tokens), tolerance, 5.0, 10)
    mixed = torch.cat((tokens[:, : LENGTH // 2], tokens.roll(1, 0)[:, LENGTH // 2 :]), 1)  # each token at its place
    with torch.no_grad():
        assert float(reading.whole(tokens).max()) < tolerance
        assert float(reading.whole(others).min()) > tolerance
        assert float(reading.whole(mixed).min()) > tolerance


def test_sentences_of_all_lengths_are_exact() -> None:
    tokens, mask = sentences(3, 7), torch.ones(3, LENGTH)
    for row, length in enumerate((5, 8, 6)):
        tokens[row, length:], mask[row, length:] = 0, 0
    result = attacked("dager", observed(encoder(7), tokens, 0, attention_mask=mask))
    assert read(result) == {tuple(row[row != 0].tolist()) for row in tokens}


def test_what_needs_causal_order_refuses() -> None:
    with pytest.raises(
        NotApplicable, match="tokens attend to later tokens, and the search extends sentences from their beginning"
    ):
        attacked("subspace-distance", observed(encoder(0), sentences(2, 0)))
