"""Shared code of tagged sets: tokenise words and align their tags.

An example is a sentence: its tokens as inputs (T,), and as labels (T,) the index of a word's tag at the word's first
token. Further tokens of a word, and padding, are ignored by the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Dataset, InputSpec, Tokenizer
from fedsim.data._text import TokenConfig, test_and_training, tokenizer_of

OUTSIDE = "O"
_FEWEST_DOCUMENTS = 2
Sentence = tuple[tuple[str, str], ...]  # (word, tag) pairs
Document = Sequence[Sentence]


def build_tagged_set(config: TokenConfig, documents: Sequence[Document]) -> Dataset:
    """Return training and test sentences, without overlap; a sentence's owner is its document.

    Args:
        config: tokenizer and limits.
        documents: at least two, each with at least one sentence; no word is empty.

    Raises:
        FedsimError: fewer than two documents, no sentence left for training, or a tokenizer that cannot be read.
        MissingExtra: an optional package is needed that is not installed.
    """
    if len(documents) < _FEWEST_DOCUMENTS:
        raise FedsimError("the tagged text has 1 document: expected at least 2, for training and for testing.")
    tested, trained = test_and_training(config, documents)
    tokenizer = tokenizer_of(config, [_text(sentence) for document in tested for sentence in document])
    tags = sorted({tag for d in documents for s in d for _, tag in s}, key=lambda tag: (tag != OUTSIDE, tag))
    numbers = {tag: number for number, tag in enumerate(tags)}
    known: set[tuple[int, ...]] = set()
    test, _ = _examples(config.length, tested, tokenizer, numbers, known)
    train, users = _examples(config.length, trained, tokenizer, numbers, known)
    if not train:
        raise FedsimError("every training sentence is also a test sentence. Add text.")
    return Dataset(
        train=_batch(train[: config.train], tokenizer.padding, config.length),
        test=_batch(test[: config.test], tokenizer.padding, config.length),
        spec=InputSpec((config.length,), len(tags), (), (), tokenizer.vocabulary, tokenizer.padding),
        class_names=tuple(tags),
        users=torch.tensor(users[: config.train]),
        tokenizer=tokenizer,
        task="tagging",
    )


def _text(sentence: Sentence) -> str:
    """Return the text that is tokenised: a blank before every word, including the first."""
    return "".join(f" {word}" for word, _ in sentence)


_Example = tuple[list[int], list[int]]  # tokens and their labels


def _examples(
    length: int,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    numbers: dict[str, int],
    known: set[tuple[int, ...]],
) -> tuple[list[_Example], list[int]]:
    """Return the sentences that are new after truncation, and the document index of each."""
    examples: list[_Example] = []
    owners: list[int] = []
    for owner, document in enumerate(documents):
        for sentence in document:
            tokens: list[int] = []
            labels: list[int] = []
            for word, tag in sentence:
                pieces = tokenizer.encode(f" {word}")
                tokens += pieces
                labels += [numbers[tag], *[IGNORED] * (len(pieces) - 1)][: len(pieces)]
            cut = tuple(tokens[:length])
            if cut and cut not in known:
                examples.append((tokens[:length], labels[:length]))
                owners.append(owner)
            known.add(cut)
    return examples, owners


def _batch(examples: Sequence[_Example], padding: int, length: int) -> Batch:
    inputs = torch.full((len(examples), length), padding)
    labels = torch.full((len(examples), length), IGNORED)
    for row, (tokens, tags) in enumerate(examples):
        inputs[row, : len(tokens)], labels[row, : len(tags)] = torch.tensor(tokens), torch.tensor(tags)
    return Batch(inputs, labels)
