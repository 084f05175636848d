"""Which tokens end a clause, of a tokenizer whose tokens can be counted."""

from collections.abc import Sequence

from fedsim.components.decoder._clauses import SIGNS, clause_ends
from fedsim.data._tokenizer import WordTokenizer


class Pieces:
    """Tokens that are whole pieces of text."""

    texts = ("a", ".", "3.", " ;", "b", "", "x!y", "\n", "?")
    vocabulary, padding, begin, end = len(texts), 0, None, 0
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        return [self.texts.index(text)] if text in self.texts else []

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.texts[token] for token in tokens)


def test_signs_alone_end_a_clause_or_every_token_whose_text_ends_in_one() -> None:
    own = Pieces()
    assert {own.texts[token] for token in clause_ends(own, "signs")} == {".", "\n", "?"}
    assert {own.texts[token] for token in clause_ends(own, "endings")} == {".", "\n", "?", "3.", " ;"}


def test_every_sign_of_a_tokenizer_of_bytes_is_found() -> None:
    tokenizer = WordTokenizer()
    signs = clause_ends(tokenizer, "signs")
    assert {tokenizer.decode([sign]) for sign in signs} == set(SIGNS)
    assert clause_ends(tokenizer, "endings") == signs, "each of its tokens is one byte"
