"""What every text set promises, what tokenizers keep, and how secrets are planted."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core import registry
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, Dataset
from fedsim.data._text import TextConfig
from fedsim.data._tokenizer import ModelTokenizer, WordTokenizer, frequent_words
from fedsim.data.text_file import TextFileConfig, text_file

NAMES = sorted(n for n, m in registry.methods("dataset").items() if issubclass(m.config, TextConfig))
WORDS = ["river", "stone", "green", "walks", "under", "seven", "lamps", "while", "nobody", "sings", "about", "winter"]


def sentence(document: int, number: int) -> str:
    return " ".join(WORDS[(document * 5 + number * (k + 1) + k) % len(WORDS)] for k in range(6)) + f" {number}."


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "documents.txt"
    documents = [f"Document {d} begins here. " + " ".join(sentence(d, n) for n in range(5)) for d in range(10)]
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def load(name: str, file: Path, **settings: Any) -> Dataset:
    method = registry.get("dataset", name)
    needed = {"path": file} if "path" in method.config.model_fields else {}
    try:
        return method.make(method.config.model_validate({**needed, **settings}))
    except MissingExtra as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))


def texts(dataset: Dataset, batch: Batch) -> list[str]:
    assert dataset.tokenizer is not None
    return [dataset.tokenizer.decode(row) for row in batch.inputs.tolist()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_labels_are_the_next_tokens_and_nothing_counts_behind_the_end(name: str, tokenizer: str, file: Path) -> None:
    dataset = load(name, file, tokenizer=tokenizer, length=20, train=50, test=20)
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
def test_it_is_the_same_each_time_and_no_document_is_split(name: str, file: Path) -> None:
    before = torch.random.get_rng_state()
    first, second, other = load(name, file), load(name, file), load(name, file, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert first.train.inputs.shape != other.train.inputs.shape or not torch.equal(
        first.train.inputs, other.train.inputs
    )
    assert not set(texts(first, first.train)) & set(texts(first, first.test))
    assert first.users is not None
    assert len(first.users) == len(first.train)
    assert first.users.tolist() == sorted(first.users.tolist())


def test_owners_are_documents_and_a_limit_keeps_the_beginning(file: Path) -> None:
    whole, few = load("text-file", file, tokenizer="bytes"), load("text-file", file, tokenizer="bytes", train=7, test=2)
    assert whole.users is not None
    assert whole.users.unique().tolist() == list(range(8))
    assert (len(few.train), len(few.test)) == (7, 2)
    assert torch.equal(few.train.inputs, whole.train.inputs[:7])
    (owner,) = {text for text, user in zip(texts(whole, whole.train), whole.users.tolist(), strict=True)
                if user == 3 and text.startswith("Document")}  # fmt: skip
    assert owner.startswith("Document")


def test_only_words_of_the_test_text_are_known(tmp_path: Path) -> None:
    path = tmp_path / "two.txt"
    path.write_text("apples are red and ripe.\n\nquinces are yellow and sour.")
    dataset = load("text-file", path, shortest=1, words=100)
    assert isinstance(dataset.tokenizer, WordTokenizer)
    (tested,), (trained,) = texts(dataset, dataset.test), texts(dataset, dataset.train)
    word = trained.split()[0][:4]
    assert not any(word in known for known in dataset.tokenizer._words)
    assert tested.split()[0] in dataset.tokenizer._words


@given(st.text(), st.lists(st.text(max_size=4), max_size=5))
def test_no_text_is_lost(text: str, others: list[str]) -> None:
    text = text.encode("utf-8", errors="replace").decode()
    for tokenizer in (WordTokenizer(), WordTokenizer(frequent_words([text], 3))):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert all(0 <= token < tokenizer.vocabulary for token in tokens)
        assert tokenizer.decode([*tokens, tokenizer.end, tokenizer.padding]) == text


def test_frequent_words_are_counted_with_their_blank_and_ties_are_alphabetical() -> None:
    assert frequent_words(["a b a", "c a b"], 3) == (" a", " b", "a")


def test_canaries_are_repeated_as_often_as_asked(file: Path) -> None:
    dataset = load("text-file", file, canaries=3, repetitions=[1, 4], tokenizer="bytes")
    held = texts(dataset, dataset.train)
    assert [len(secret.examples) for secret in dataset.planted] == [1, 4, 1]
    assert len({secret.text for secret in dataset.planted}) == 3
    for secret in dataset.planted:
        assert secret.kind == "canary"
        assert [number for number, text in enumerate(held) if text == secret.text] == list(secret.examples)
        assert dataset.users is not None
        assert len({int(dataset.users[number]) for number in secret.examples}) == 1


def test_identities_are_generated_anew_for_every_seed(file: Path) -> None:
    pytest.importorskip("faker", reason="pip install 'fedsim-privacy[llm]'") if "CI" not in os.environ else None
    settings = {"identities": 2, "repetitions": [2], "tokenizer": "bytes", "length": 64}
    first, again, other = (load("text-file", file, **settings, seed=s) for s in (0, 0, 1))
    assert first.planted == again.planted != other.planted
    assert [secret.kind for secret in first.planted] == ["identity"] * 2
    assert all(secret.text.startswith("The phone number of ") for secret in first.planted)


def test_the_tokenizer_of_a_model_is_used_as_it_is(tmp_path: Path, file: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    own = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<unk>": 0, "</s>": 1, **{w: 2 + i for i, w in enumerate(WORDS)}}, "<unk>")
    )
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    tokenizer = ModelTokenizer(tmp_path)
    assert (tokenizer.vocabulary, tokenizer.end, tokenizer.padding) == (len(WORDS) + 2, 1, 1)
    assert tokenizer.encode("green river rain") == [4, 2, 0]
    assert tokenizer.decode([4, 2, 1, 1]) == "green river"
    dataset = text_file(TextFileConfig(path=file, tokenizer=tmp_path))
    assert dataset.spec.vocabulary == len(WORDS) + 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"one document only.", "has 1 documents: expected at least 2"),
        (b"good\n\nbad \xff byte", "is not UTF-8 text: byte 10 is 0xff"),
        (b"hi.\n\nyo.", "has no sentence of 4 tokens or more"),
    ],
)
def test_unusable_text_is_one_clear_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(FedsimError, match=message):
        text_file(TextFileConfig(path=path))


def test_missing_files_and_tokenizers_are_one_clear_sentence(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FedsimError, match="there is no file or folder"):
        text_file(TextFileConfig(path=tmp_path / "none"))
    with pytest.raises(FedsimError, match=r"holds no \.txt file"):
        text_file(TextFileConfig(path=tmp_path))
    pytest.importorskip("transformers")
    with pytest.raises(FedsimError, match="there is no folder"):
        text_file(TextFileConfig(path=file, tokenizer=tmp_path / "none"))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(FedsimError, match="holds no tokenizer: expected tokenizer.json"):
        text_file(TextFileConfig(path=file, tokenizer=folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FedsimError, match="holds no tokenizer that can be read") as told:
        text_file(TextFileConfig(path=file, tokenizer=folder))
    assert "\n" not in str(told.value)


def test_files_of_a_folder_are_documents(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(f"This is document {name}.\n\nIt has two parts, {name}.")
    dataset = text_file(TextFileConfig(path=tmp_path, tokenizer="bytes"))
    assert dataset.users is not None
    assert dataset.users.unique().tolist() == [0, 1]
