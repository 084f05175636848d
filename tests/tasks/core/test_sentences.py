"""Sentences are scored with their words, and shown as text."""

from dataclasses import replace

import torch

from fedsim.core.types import Batch, Dataset, InputSpec, Planted, Reconstruction
from fedsim.tasks.core.sentences import READ_WORDS
from tests.tasks.truths import TEXT, truth


class Letters:
    """One letter a token, 0 fills up."""

    vocabulary, padding, begin, end = 27, 0, None, 0
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(96 + token) for token in tokens if token)


def test_sentences_are_scored_with_their_words_and_shown_as_text() -> None:
    letters = Letters()
    rows = torch.tensor([letters.encode("abcd"), [*letters.encode("xyz"), 0]])
    batch = Batch(rows, rows)
    spec = InputSpec((4,), 27, (), (), vocabulary=27, padding=0)
    data = Dataset(batch, batch, spec, ("text",), tokenizer=letters, planted_secrets=(Planted("canary", "xyz", (1,)),))
    guess = Reconstruction.of(torch.tensor([[24, 25, 26, -1], [1, 2, 3, 5]]))
    found = TEXT.score(truth(batch), batch, guess, data)
    assert [item.values["exact"] for item in found.items] == [0.0, 1.0]
    assert [item.values["token_accuracy"] for item in found.items] == [0.75, 1.0]
    assert found.values == {"words_found": 6 / 7, "words_right": 6 / 7}
    for words, flag in (([1, 2, 3, 4, 24, 25, 26, 0], 1.0), ([1, 2, 3, 4, 24, 25], 0.0)):
        read = replace(guess, extras={READ_WORDS: torch.tensor(words)})
        assert TEXT.score(truth(batch), batch, read, data).values == {**found.values, "every_word": flag}
    assert (found.order, dict(found.arrays)) == (None, {})
    assert TEXT.show(guess.inputs, data) == ("xyz", "abce")
