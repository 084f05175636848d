"""Means over words, by hand, and what a sentence encoder says of what it cannot read."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.models._encoder import is_word, mean_pooled, sentence_shape


def test_the_mean_is_over_the_words_alone_and_that_of_none_is_zero() -> None:
    tokens = torch.tensor([[1, 2, 9], [9, 9, 9]])
    hidden = torch.arange(12.0).view(2, 3, 2)
    words = is_word(tokens, 9)
    assert words.tolist() == [[True, True, False], [False] * 3]
    assert mean_pooled(hidden, words).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert bool(is_word(tokens, None).all())


def test_sentences_without_labels_fit_and_others_are_told() -> None:
    spec = InputSpec((6,), 1, (), (), vocabulary=11)
    assert sentence_shape(spec, "own", 6) == (6, 11)
    with pytest.raises(FedsimError, match=r"data\.length is 6, expected at most 5, the positions of model 'own'"):
        sentence_shape(spec, "own", 5)
    with pytest.raises(FedsimError, match="labels of 4 classes"):
        sentence_shape(InputSpec((6,), 4, (), (), vocabulary=11), "own", 6)
