"""Shared code of text sets: split documents into sentences, tokenise, and insert secrets.

A set provides documents. An example is a sentence: its tokens as inputs (T,), the next tokens as labels (T,).
A document is either in the training or in the test text, and the owner of an example is its document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.nets.losses import IGNORED
from fedsim.core.regular_files import read_regular
from fedsim.core.types import Batch, Config, Dataset, InputSpec, Planted, Tokenizer
from fedsim.data._secrets import secrets
from fedsim.data._tokenizer import ModelTokenizer, WordTokenizer, frequent_words

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_FEWEST_DOCUMENTS = 2
Document = TypeVar("Document")


class TokenConfig(Config):
    """Settings of all sets with token sequences as examples."""

    length: int = Field(default=32, ge=2, description="tokens per example; longer sentences are cut")
    tokenizer: Literal["words", "bytes", "smollm2-135m", "minilm"] | Path = Field(
        default="words",
        description="words: frequent words of the test text, and bytes for all others; bytes; smollm2-135m or minilm: "
        "the tokenizer of this model; or the folder of a Hugging Face checkpoint, for its model",
    )
    words: int = Field(default=2000, ge=1, description="number of words of tokenizer words")
    test_fraction: float = Field(default=0.2, gt=0, lt=1, description="share of the documents kept for testing")
    train: int | None = Field(default=None, ge=1, description="at most this many training sentences; all when absent")
    test: int | None = Field(default=None, ge=1, description="at most this many test sentences; all when absent")
    seed: int = Field(
        default=0, ge=0, description="seed of the documents' order and of generated text; not the scenario's seed"
    )


class TextConfig(TokenConfig):
    """Settings of all text sets."""

    shortest: int = Field(default=4, ge=1, description="sentences with fewer tokens are dropped")
    identities: int = Field(
        default=0, ge=0, description="generated persons with phone numbers in the training text (extra llm)"
    )
    canaries: int = Field(default=0, ge=0, description="random numbers in the training text")
    addresses: int = Field(default=0, ge=0, description="generated e-mail addresses in the training text (extra llm)")
    repetitions: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(1,),
        min_length=1,
        description="how often secrets are repeated: the first, the second, and so on, cyclically; 0: the secret is "
        "drawn and left out, as the control of exposure",
    )


def tokenise(config: TextConfig, documents: Sequence[str]) -> Dataset:
    """Return training and test sentences of documents, with the secrets of the settings.

    Raises:
        FedsimError: fewer than two documents, no sentence that is long enough, or a tokenizer that cannot be read.
        MissingExtra: an optional package is needed that is not installed.
    """
    if len(documents) < _FEWEST_DOCUMENTS:
        raise FedsimError(
            f"the text has {len(documents)} documents: expected at least 2, for training and "
            "for testing. Documents are separated by an empty line, or are files of a folder."
        )
    tested, trained = test_and_training(config, documents)
    tokenizer = tokenizer_of(config, tested)
    known: set[tuple[int, ...]] = set()
    test, _ = _sentences(config, tested, tokenizer, known)
    train, users = _sentences(config, trained, tokenizer, known)
    if not train or not test:
        raise FedsimError(
            f"the {'test' if train else 'training'} text has no sentence of {config.shortest} tokens or more. "
            "Lower data.shortest, or add text."
        )
    train, users, planted = train[: config.train], users[: config.train], list[Planted]()
    wanted = (config.identities, config.canaries, config.addresses)
    for number, secret in enumerate(secrets(*wanted, config.repetitions, config.seed)):
        tokens = tokenizer.encode(secret.text)
        places = range(len(train), len(train) + secret.repetitions)
        text = tokenizer.decode(tokens[: config.length])
        planted.append(Planted(secret.kind, text, tuple(places), secret.prompt, secret.form))
        train += [[*tokens, tokenizer.end]] * secret.repetitions
        users += [len(trained) + number] * secret.repetitions
    return Dataset(
        train=as_batch(train, tokenizer.padding, config.length),
        test=as_batch(test[: config.test], tokenizer.padding, config.length),
        spec=InputSpec((config.length,), tokenizer.vocabulary, (), (), tokenizer.vocabulary, tokenizer.padding),
        class_names=("text",),
        users=torch.tensor(users),
        tokenizer=tokenizer,
        planted_secrets=tuple(planted),
        task="next-token",
    )


def test_and_training(config: TokenConfig, documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Return test and training documents, both shuffled, at least one of each.

    Args:
        config: seed and test share.
        documents: at least two.
    """
    order: list[int] = torch.randperm(len(documents), generator=seeding.generator(config.seed, "documents")).tolist()
    kept = min(max(1, round(config.test_fraction * len(documents))), len(documents) - 1)
    return [documents[index] for index in order[:kept]], [documents[index] for index in order[kept:]]


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        FedsimError: the file cannot be read, is no regular file, is not UTF-8, or is empty.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except OSError as error:
        raise FedsimError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FedsimError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}. Convert the file."
        ) from error
    if not text.strip():
        raise FedsimError(f"{path} holds no text.")
    return text


def tokenizer_of(config: TokenConfig, public: Sequence[str]) -> Tokenizer:
    """Return the tokenizer of the settings.

    Args:
        config: names the tokenizer.
        public: test text, which the server owns. Known words come from it alone, since private words would leak.

    Raises:
        FedsimError: the tokenizer cannot be read.
        MissingExtra: an optional package is needed that is not installed.
    """
    if isinstance(config.tokenizer, Path):
        return ModelTokenizer(config.tokenizer)
    if config.tokenizer == checkpoints.SMOLLM2:
        return ModelTokenizer(checkpoints.smollm2())
    if config.tokenizer == checkpoints.MINILM:
        return ModelTokenizer(checkpoints.minilm())
    return WordTokenizer(frequent_words(public, config.words) if config.tokenizer == "words" else ())


def _sentences(
    config: TextConfig, documents: Sequence[str], tokenizer: Tokenizer, known: set[tuple[int, ...]]
) -> tuple[list[list[int]], list[int]]:
    """Return the tokens of sentences that are long enough and new after truncation, and their document indices."""
    sentences: list[list[int]] = []
    owners: list[int] = []
    for number, document in enumerate(documents):
        for sentence in _SENTENCE_END.split(" ".join(document.split())):
            tokens = tokenizer.encode(sentence)
            cut = tuple(tokens[: config.length])
            if len(tokens) >= config.shortest and cut not in known:
                sentences.append([*tokens, tokenizer.end])
                owners.append(number)
            known.add(cut)
    return sentences, owners


def as_batch(sentences: Sequence[Sequence[int]], padding: int, length: int) -> Batch:
    """Return inputs and next tokens (N, length); short sentences are padded, long sentences truncated."""
    inputs = np.full((len(sentences), length), padding, dtype=np.int64)
    labels = np.full((len(sentences), length), IGNORED, dtype=np.int64)
    for row, tokens in enumerate(sentences):
        following = tokens[1 : length + 1]
        inputs[row, : len(following)], labels[row, : len(following)] = tokens[: len(following)], following
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels))
