"""Words of a batch: how often they follow, and how long sentences are."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks.text._words import Following, counts_of, following_of, lengths_of, pad_to_rows
from fedsim.core.nets.losses import IGNORED
from tests.attacks.written import WRITTEN
from tests.federating import watched

KNOWN = ("batch-size", "dropout-rates")


class Positioned(nn.Module):
    """Adds a learned vector of the place to that of the token; a biased output layer tells no lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(40, 8), nn.Embedding(12, 8)
        self.head = nn.Linear(8, 40)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(4, 20))
def test_squared_weights_of_orthogonal_places_add_up(counts: list[int], length: int) -> None:
    weights = torch.tensor(counts).double().sqrt() / (2 * length)
    assert counts_of(Following(torch.arange(len(counts)), weights), (length, length)).tolist() == counts


def test_learned_positions_give_the_longest_sentence_away() -> None:
    observation, _, _ = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 2})
    model, tokens = Positioned(), torch.arange(20).view(2, 10)
    labels = tokens.roll(-1, 1)
    labels[0, 4:], labels[1, 7:] = IGNORED, IGNORED
    gradients = torch.autograd.grad(observation.loss(model(tokens), labels), list(model.parameters()))
    tensors = dict(zip(dict(model.named_parameters()), gradients, strict=True))
    spec = replace(observation.spec, vocabulary=40, classes=40)
    update = replace(observation.update, tensors=tensors)
    assert lengths_of(replace(observation, model=model, spec=spec, update=update)) == (7, 7)


def test_the_weight_of_a_word_that_follows_once_is_one_over_batch_and_length() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    found = following_of(observation)
    length = int((truth.original_batches[0].labels != IGNORED).sum())
    assert found.weights.median().item() == pytest.approx(1 / length, rel=0.05)


@pytest.mark.parametrize(
    ("count", "batch_size", "rows"),
    [
        (0, 2, []),
        (3, 1, [[0, 1, 2, -1]]),
        (5, 1, [[0, 1, 2, 3, 4]]),
        (5, 3, [[0, 1, 2, 3], [4, -1, -1, -1]]),
        (9, 2, [[0, 1, 2, 3, 4], [5, 6, 7, 8, -1]]),
        (9, None, [[0, 1, 2, 3], [4, 5, 6, 7], [8, -1, -1, -1]]),
    ],
)
def test_rows_of_words_never_outnumber_the_batch(count: int, batch_size: int | None, rows: list[list[int]]) -> None:
    observation: Any = SimpleNamespace(spec=SimpleNamespace(shape=(4,)), batch_size=batch_size)
    assert pad_to_rows(torch.arange(count), observation).tolist() == rows
