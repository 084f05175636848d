"""Your own text: owners, known words, and files that are unusable or missing."""

from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.data._tokenizer import WordTokenizer
from fedsim.data.text_file import TextFileConfig, text_file
from tests.data.texts import load, texts


def test_owners_are_documents_and_a_limit_keeps_the_beginning(documents: Path) -> None:
    whole, few = (
        load("text-file", documents, tokenizer="bytes"),
        load("text-file", documents, tokenizer="bytes", train=7, test=2),
    )
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


def test_missing_files_and_tokenizers_are_one_clear_sentence(tmp_path: Path, documents: Path) -> None:
    with pytest.raises(FedsimError, match="no file or folder"):
        text_file(TextFileConfig(path=tmp_path / "none"))
    with pytest.raises(FedsimError, match=r"holds no \.txt file"):
        text_file(TextFileConfig(path=tmp_path))
    pytest.importorskip("transformers")
    with pytest.raises(FedsimError, match="no folder"):
        text_file(TextFileConfig(path=documents, tokenizer=tmp_path / "none"))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with pytest.raises(FedsimError, match="holds no tokenizer: expected tokenizer.json"):
        text_file(TextFileConfig(path=documents, tokenizer=folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FedsimError, match="holds no tokenizer that can be read") as told:
        text_file(TextFileConfig(path=documents, tokenizer=folder))
    assert "\n" not in str(told.value)


def test_files_of_a_folder_are_documents(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.txt").write_text(f"This is document {name}.\n\nIt has two parts, {name}.")
    dataset = text_file(TextFileConfig(path=tmp_path, tokenizer="bytes"))
    assert dataset.users is not None
    assert dataset.users.unique().tolist() == [0, 1]
