"""Sentences from your own pairs with human similarity ratings; sentence embeddings are tested on the pairs.

Source: the format of the STS benchmark, Cer et al. 2017, arXiv 1708.00055: a CSV file without a header, with two
sentences and a score from 0 (nothing in common) to 5 (the same meaning) per row. Training examples are single
sentences without labels; pairs and scores are used only for the test. Leakage: the sentences.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.registry import dataset
from fedsim.core.types import Batch, Dataset, InputSpec, Similarities, Tokenizer
from fedsim.data._text import TokenConfig, read_text, test_and_training, tokenizer_of

_COLUMNS = 3
_HIGHEST = 5.0
_FEWEST_PAIRS = 2


class SentencePairsConfig(TokenConfig):
    """Settings of sentence-pairs."""

    path: Path = Field(description="a UTF-8 CSV file without a header: sentence, sentence, score from 0 to 5")
    test_path: Path | None = Field(
        default=None, description="such a file with the test pairs; absent: test_fraction of the pairs in path"
    )
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the pairs for the test")
    test: int | None = Field(default=None, ge=1, description="at most this many test pairs; all when absent")


class Pair(NamedTuple):
    """Two sentences and their human similarity rating, from 0 to 5."""

    first: str
    second: str
    score: float


@dataset("sentence-pairs", summary="your own sentences, tested on pairs that people rated", paper="1708.00055")
def sentence_pairs(config: SentencePairsConfig) -> Dataset:
    """Load the sentences. Training and test text do not overlap; a sentence's owner is its pair.

    Raises:
        FedsimError: the file does not exist, is not UTF-8, has a row that is not a pair with a score, or has too few
            rows.
        MissingExtra: an optional package is needed that is not installed.
    """
    tested, trained = _parts(config)
    tested = tested[: config.test]
    tokenizer = tokenizer_of(config, [sentence for pair in tested for sentence in (pair.first, pair.second)])
    test, train = _Sentences(tokenizer, config.length), _Sentences(tokenizer, config.length)
    numbers = [(test.number(pair.first, owner), test.number(pair.second, owner)) for owner, pair in enumerate(tested)]
    for owner, pair in enumerate(trained):
        for sentence in (pair.first, pair.second):
            if test.cut(sentence) not in test.known:
                train.number(sentence, owner)
    if not train.known:
        raise FedsimError("every training sentence is also a test sentence. Add pairs.")
    return Dataset(
        train=train.batch(config.train),
        test=test.batch(None),
        spec=InputSpec(
            (config.length,), 1, (), (), tokenizer.vocabulary, tokenizer.padding, borders=_borders(tokenizer)
        ),
        class_names=("sentence",),
        users=torch.tensor(train.owners[: config.train]),
        tokenizer=tokenizer,
        similarities=Similarities(torch.tensor(numbers), torch.tensor([pair.score for pair in tested])),
        task="sentence-embedding",
    )


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a file.

    Raises:
        FedsimError: the file does not exist, is not UTF-8, or has a row that is not a pair with a score.
    """
    if not path.is_file():
        raise FedsimError(f"no file {path}: expected a CSV file with two sentences and a score per row.")
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [_pair(path, rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise FedsimError(
            f"{path}, line {rows.line_num}: {error}. Expected quoted texts, separated by commas."
        ) from error


def _pair(path: Path, line: int, row: Sequence[str]) -> Pair:
    if len(row) != _COLUMNS:
        raise FedsimError(f"{path}, line {line}: expected two sentences and a score, got {len(row)} columns.")
    first, second, raw_score = (column.strip() for column in row)
    if not first or not second:
        raise FedsimError(f"{path}, line {line}: a sentence is empty.")
    try:
        score = float(raw_score)
    except ValueError:
        score = -1.0
    if not 0 <= score <= _HIGHEST:
        raise FedsimError(f"{path}, line {line}: expected a score from 0 to 5, got {raw_score!r}.")
    return Pair(first, second, score)


def _parts(config: SentencePairsConfig) -> tuple[list[Pair], list[Pair]]:
    pairs = read_pairs(config.path)
    if config.test_path is None:
        if len(pairs) < _FEWEST_PAIRS:
            raise FedsimError(f"{config.path} holds 1 pair: expected at least 2, for training and for testing.")
        return test_and_training(config, pairs)
    return read_pairs(config.test_path), pairs


def _borders(tokenizer: Tokenizer) -> tuple[int, ...]:
    return (tokenizer.end,) if tokenizer.begin is None else (tokenizer.begin, tokenizer.end)


class _Sentences:
    """Distinct sentences, truncated to a length, in order of their first appearance."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.known: dict[tuple[int, ...], int] = {}
        self.owners: list[int] = []
        self._tokenizer, self._length = tokenizer, length

    def cut(self, sentence: str) -> tuple[int, ...]:
        """Return a sentence's tokens with its border tokens; long sentences are truncated before the end token."""
        before = () if self._tokenizer.begin is None else (self._tokenizer.begin,)
        room = max(1, self._length - len(before) - 1)
        return (*before, *self._tokenizer.encode(sentence)[:room], self._tokenizer.end)[: self._length]

    def number(self, sentence: str, owner: int) -> int:
        """Return the number of a sentence; a new sentence gets the next number and its owner."""
        tokens = self.cut(sentence)
        if tokens not in self.known:
            self.owners.append(owner)
        return self.known.setdefault(tokens, len(self.known))

    def batch(self, limit: int | None) -> Batch:
        """Return the first sentences, padded, without labels."""
        chosen = list(self.known)[:limit]
        inputs: Tensor = torch.full((len(chosen), self._length), self._tokenizer.padding)
        for row, tokens in enumerate(chosen):
            inputs[row, : len(tokens)] = torch.tensor(tokens)
        return Batch(inputs, torch.zeros(len(chosen), dtype=torch.long))
