"""Your own tagged sentences: what ends one, owners, and files that are refused."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Dataset
from fedsim.data.conll import ConllConfig, conll
from tests.data.tags import pairs

WNUT17 = Path(
    os.environ.get("FEDSIM_WNUT17", Path(__file__).parents[2].parent / "shared" / "data" / "wnut17train.conll")
)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "tags.conll"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return conll(ConllConfig.model_validate({"path": path, **settings}))


def is_filled_up_at_the_end(dataset: Dataset, batch: Batch, row: int) -> bool:
    """Padding stands at the end alone, and has no label."""
    is_padding = batch.inputs[row] == dataset.spec.padding
    first = int(is_padding.long().argmax())
    return bool(is_padding[first:].all()) and bool((batch.labels[row][is_padding] == IGNORED).all())


def test_sentences_end_at_empty_lines_and_at_lone_tabs_and_are_their_own_owners(tmp_path: Path) -> None:
    text = "\n\nAda\tB-person\nLovelace\tI-person\nslept\tO\r\n\t\nit\tO\nrained\tO\n\n\nin\tO\nYork\tB-place"
    dataset = load(write(tmp_path, text), test_fraction=0.3)
    assert dataset.class_names == ("O", "B-person", "B-place", "I-person")
    assert dataset.spec.classes == 4
    assert dataset.task == "tagging"
    assert dataset.tokenizer is not None
    assert dataset.spec.padding == dataset.tokenizer.padding
    rows = [(batch, row) for batch in (dataset.train, dataset.test) for row in range(len(batch))]
    assert sorted(pairs(dataset, *row) for row in rows) == [
        [("Ada", "B-person"), ("Lovelace", "I-person"), ("slept", "O")],
        [("in", "O"), ("York", "B-place")],
        [("it", "O"), ("rained", "O")],
    ]
    assert all(is_filled_up_at_the_end(dataset, *row) for row in rows)
    assert dataset.users is not None
    assert dataset.users.tolist() == [0, 1]


def test_lines_that_begin_documents_make_owners(tmp_path: Path) -> None:
    begin = "-DOCSTART-\tO\n\n"
    documents = [f"{begin}one{d}\tO\n\ntwo{d}\tX\n\n" for d in range(4)]
    dataset = load(write(tmp_path, "".join(documents)), test_fraction=0.25, tokenizer="bytes")
    assert dataset.users is not None
    assert dataset.users.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(dataset.test) == 2
    (owner,) = {pairs(dataset, dataset.test, row)[0][0][-1] for row in range(2)}
    assert all(pairs(dataset, dataset.train, row)[0][0][-1] != owner for row in range(6))
    limited = load(write(tmp_path, "".join(documents)), train=3, tokenizer="bytes")
    assert torch.equal(limited.train.inputs, dataset.train.inputs[:3])
    assert limited.users is not None
    assert limited.users.tolist() == [0, 0, 1]


def test_a_sentence_that_stands_there_twice_is_one_example(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, "a\tO\n\nb\tO\n\na\tO\n\nc\tO\n"), tokenizer="bytes")
    assert len(dataset.train) + len(dataset.test) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        ("\t\n\n", "holds no text"),
        ("-DOCSTART-\tO\n", "holds no sentence"),
        ("one\tO\ntwo\tO", "has 1 document: expected at least 2"),
        ("same\tO\n\nsame\tO", "every training sentence is also a test sentence"),
        ("good\tO\n\nbad O\n", r"tags\.conll, line 3: expected a token, a tab and a tag, got 'bad O'"),
        ("good\tO\nbad\t\n", "line 2: expected a token, a tab and a tag, got 'bad'"),
        ("\tO\n", r"line 1: expected a token, a tab and a tag, got '\\tO'"),
        ("a\tb\tO\n", "line 1: expected a token, a tab and a tag"),
        (b"good\tO\n\nbad\xff\tO\n", "is not UTF-8 text: byte 11 is 0xff"),
    ],
)
def test_unusable_files_are_one_clear_sentence(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        load(write(tmp_path, content))


def test_a_missing_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no file"):
        load(tmp_path / "none")


@pytest.mark.skipif(not WNUT17.is_file(), reason="set FEDSIM_WNUT17 to wnut17train.conll of emerging_entities_17")
def test_the_training_part_of_wnut17_has_six_kinds_of_entities() -> None:
    dataset = load(WNUT17, length=128, tokenizer="bytes")
    kinds = ("corporation", "creative-work", "group", "location", "person", "product")
    assert dataset.class_names == ("O", *(f"B-{kind}" for kind in kinds), *(f"I-{kind}" for kind in kinds))
    assert 3000 < len(dataset.train) + len(dataset.test) <= 3394
    longest = load(WNUT17, length=2000, tokenizer="bytes")
    words = sum(int((batch.labels != IGNORED).sum()) for batch in (longest.train, longest.test))
    assert 58_000 < words <= 62_730
    begun = sum(int((batch.labels == 5).sum()) for batch in (longest.train, longest.test))
    assert 600 < begun <= 660  # persons
