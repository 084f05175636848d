"""What every text set promises."""

from pathlib import Path

import pytest
import torch

from fedsim.core import registry
from fedsim.core.nets.losses import IGNORED
from fedsim.data._text import TextConfig
from tests.data.texts import load, texts

NAMES = sorted(n for n, m in registry.methods("dataset").items() if issubclass(m.config, TextConfig))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_labels_are_the_next_tokens_and_nothing_counts_behind_the_end(
    name: str, tokenizer: str, documents: Path
) -> None:
    dataset = load(name, documents, tokenizer=tokenizer, length=20, train=50, test=20)
    assert dataset.tokenizer is not None
    assert dataset.spec.shape == (20,)
    assert dataset.spec.classes == dataset.spec.vocabulary == dataset.tokenizer.vocabulary
    for batch in (dataset.train, dataset.test):
        assert batch.inputs.dtype == batch.labels.dtype == torch.int64
        assert 0 <= batch.inputs.min() <= batch.inputs.max() < dataset.tokenizer.vocabulary
        for inputs, labels in zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True):
            length = sum(label != IGNORED for label in labels)
            assert labels[: length - 1] == inputs[1:length]
            assert labels[length:] == [IGNORED] * (20 - length)
            assert inputs[length:] == [dataset.tokenizer.padding] * (20 - length)
            assert length == 20 or labels[length - 1] == dataset.tokenizer.end


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_each_time_and_no_document_is_split(name: str, documents: Path) -> None:
    before = torch.random.get_rng_state()
    first, second, other = load(name, documents), load(name, documents), load(name, documents, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert first.train.inputs.shape != other.train.inputs.shape or not torch.equal(
        first.train.inputs, other.train.inputs
    )
    assert not set(texts(first, first.train)) & set(texts(first, first.test))
    assert first.users is not None
    assert len(first.users) == len(first.train)
    assert first.users.tolist() == sorted(first.users.tolist())
