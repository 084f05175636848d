"""Made-up sentences: which word decides a tag."""

from typing import Any

import pytest
import torch

from fedsim.core.nets.losses import IGNORED
from fedsim.data.digit_tags import _DIGITS, DigitTagsConfig, digit_tags


@pytest.mark.parametrize("decided_by", ["next-word", "this-word"])
def test_the_word_that_decides_is_the_one_that_is_asked_for(decided_by: Any) -> None:
    dataset = digit_tags(DigitTagsConfig(decided_by=decided_by))
    assert dataset.class_names == ("O", "B")
    for batch in (dataset.train, dataset.test):
        assert int(batch.inputs.min()) > 255  # a token for every word
        for row in range(len(batch)):
            length = int((batch.labels[row] != IGNORED).sum())
            assert 6 <= length <= 12
            assert dataset.tokenizer is not None
            words = dataset.tokenizer.decode(batch.inputs[row].tolist()).split()
            decisive = [word in _DIGITS for word in words]
            decisive = decisive if decided_by == "this-word" else [*decisive[1:], False]
            assert batch.labels[row, :length].tolist() == decisive


def test_made_up_sentences_depend_on_the_seed_alone() -> None:
    first, again, other = (digit_tags(DigitTagsConfig(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert first.train.inputs.shape != other.train.inputs.shape or not torch.equal(
        first.train.inputs, other.train.inputs
    )
