"""No text is lost by a tokenizer, and that of a model is used as it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data._tokenizer import ModelTokenizer, WordTokenizer, frequent_words
from fedsim.data.text_file import TextFileConfig, text_file
from tests.data.conftest import WORDS


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


def test_the_tokenizer_of_a_model_is_used_as_it_is(tmp_path: Path, documents: Path) -> None:
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
    assert tokenizer.ends == {1}
    dataset = text_file(TextFileConfig(path=documents, tokenizer=tmp_path))
    assert dataset.spec.vocabulary == len(WORDS) + 2


def test_the_end_of_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "</s>": 1, "<mask>": 2}, "<unk>"))
    own.add_special_tokens(["<|eot_id|>"])
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    tokenizer = ModelTokenizer(tmp_path)
    assert (tokenizer.end, tokenizer.ends) == (1, {1, 3})
    assert (WordTokenizer().end, WordTokenizer().ends) == (257, {257})
