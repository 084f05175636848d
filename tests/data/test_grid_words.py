"""Words and their numbers."""

import pytest

from fedsim.data._grid_words import KINDS, GridWords


@pytest.mark.parametrize("cells", [2, 4, 6])
def test_every_word_has_one_number(cells: int) -> None:
    words = GridWords(cells)
    assert len(set(words.words)) == len(words.words) == 32 + 2 * cells
    assert [words.of(word) for word in words.words] == list(range(len(words.words)))
    assert words.of("<pad>") == 0


def test_a_kind_is_told_by_its_beginning() -> None:
    words = GridWords(4)
    assert [words.kind(words.first_words(kind)) for kind in KINDS] == list(KINDS)


def test_text_has_no_fillers() -> None:
    words = GridWords(4)
    assert words.decode([words.of(own) for own in ("is", "there", "d7", "<pad>")]) == "is there d7"
    assert words.decode([words.of("yes"), words.of("<eos>"), -100]) == "yes"


def test_words_are_a_tokenizer() -> None:
    words = GridWords(4)
    assert words.decode(words.encode("how many d7")) == "how many d7"
    assert (words.vocabulary, words.words[words.padding], words.ends) == (len(words.words), "<pad>", {words.end})
    assert words.begin is None
