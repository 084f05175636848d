"""Tagged sets: what becomes of words and tags, what files are refused, and what decides a made-up tag."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from fedsim.core.losses import IGNORED
from fedsim.core.types import Batch, Dataset
from fedsim.data._tags import tagged
from fedsim.data._text import TokenConfig
from fedsim.data.conll import ConllConfig, conll
from fedsim.data.digit_tags import _DIGITS, DigitTagsConfig, digit_tags

WNUT17 = Path(
    os.environ.get("FEDSIM_WNUT17", Path(__file__).parents[2].parent / "shared" / "data" / "wnut17train.conll")
)

WORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)
SENTENCE = st.lists(st.tuples(WORD, st.sampled_from(["O", "B-a", "I-a"])), min_size=1, max_size=6)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "tags.conll"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return conll(ConllConfig.model_validate({"path": path, **settings}))


def pairs(dataset: Dataset, batch: Batch, row: int) -> list[tuple[str, str]]:
    """Read words and tags back."""
    assert dataset.tokenizer is not None
    found: list[tuple[list[int], str]] = []
    for token, label in zip(batch.inputs[row].tolist(), batch.labels[row].tolist(), strict=True):
        if label != IGNORED:
            found.append(([], dataset.class_names[label]))
        found[-1][0].append(token)
    return [(dataset.tokenizer.decode(tokens).strip(), tag) for tokens, tag in found]


@given(st.lists(SENTENCE, min_size=2, max_size=5, unique_by=lambda s: tuple(w for w, _ in s)), st.integers(2, 40))
def test_each_word_that_is_kept_has_one_label_at_its_first_token(
    sentences: list[list[tuple[str, str]]], length: int
) -> None:
    settings = TokenConfig(length=1000, tokenizer="bytes")
    whole = tagged(settings, [[tuple(sentence)] for sentence in sentences])
    read = [pairs(whole, batch, row) for batch in (whole.train, whole.test) for row in range(len(batch))]
    assert sorted(read) == sorted(sentences)
    try:
        cut = tagged(settings.model_copy(update={"length": length}), [[tuple(s)] for s in sentences])
    except FedsimError:
        return  # cut so short, all are the same
    assert whole.tokenizer is not None
    begun = [sum(len("".join(f" {w}" for w, _ in s[:n]).encode()) < length for n in range(len(s))) for s in sentences]
    kept = [int((row != IGNORED).sum()) for batch in (cut.train, cut.test) for row in batch.labels]
    assert all(count in begun for count in kept)
    assert len(kept) < len(begun) or sorted(kept) == sorted(begun)


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


def is_filled_up_at_the_end(dataset: Dataset, batch: Batch, row: int) -> bool:
    """Padding stands at the end alone, and has no label."""
    is_padding = batch.inputs[row] == dataset.spec.padding
    first = int(is_padding.long().argmax())
    return bool(is_padding[first:].all()) and bool((batch.labels[row][is_padding] == IGNORED).all())


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
        ("one\tO\ntwo\tO", "has one document: expected at least 2"),
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
    with pytest.raises(FedsimError, match="there is no file"):
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
