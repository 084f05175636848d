"""Sentences with given words: those that the grammar derives, by the judge of constrained decoding, and no others."""

import pytest
import torch

from fedsim.bench.sentences import SENTENCES, WORDS, SentencePuzzle, sentences
from fedsim.components.unmasker._emptiness import completions, has_text
from fedsim.components.unmasker._grammar import read_grammar, token_symbol

GRAMMAR = """
Sentence = Phrase Verb Phrase | Phrase Verb Phrase Time
Phrase = Article Noun | Article Adjective Noun
Article = 0 | 1
Adjective = 2 | 3 | 4
Noun = 5 | 6 | 7 | 8 | 9
Verb = 10 | 11 | 12 | 13
Time = 14 | 15
"""


def is_derived(words: tuple[int, ...]) -> bool:
    grammar = read_grammar(GRAMMAR)
    pattern = [(token_symbol(word),) for word in words]
    return has_text(grammar, completions(pattern, set(), ends=False))


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(WORDS.index, text.split()))


def test_sentences_are_those_of_the_grammar() -> None:
    assert len(sentences()) == 40 * 4 * 40 * 3  # phrases, verbs, phrases, times or none
    assert numbers("the old dog sees a cat today") in sentences()
    generator = torch.Generator().manual_seed(0)
    known = sorted(sentences())
    for _ in range(8):
        own = known[int(torch.randint(len(known), (), generator=generator))]
        assert is_derived(own)
        place = int(torch.randint(len(own), (), generator=generator))
        for edit in (own[:place] + own[place + 1 :], (*own[:place], (own[place] + 3) % len(WORDS), *own[place + 1 :])):
            assert (edit in sentences()) == is_derived(edit)


def test_all_given_words_must_stand_in_a_sentence() -> None:
    asked = SentencePuzzle("sentence-hard", frozenset(numbers("dog today")))
    assert asked.is_answer(numbers("a dog hears the bird today"))
    assert not asked.is_answer(numbers("a dog hears the bird often"))
    assert not asked.is_answer(numbers("a dog today hears the bird"))
    known = list(asked.answers())
    assert len(known) == len(set(known)) == sum(map(asked.is_answer, sentences()))
    assert len(known) == (40**2 - 32**2) * 4  # one of two phrases at least has the noun


@pytest.mark.parametrize(("name", "count"), [("sentence-easy", 4), ("sentence-medium", 3), ("sentence-hard", 2)])
def test_so_many_words_of_a_sentence_are_given(name: str, count: int) -> None:
    for seed in range(5):
        asked = SENTENCES[name](name, torch.Generator().manual_seed(seed))
        assert asked == SENTENCES[name](name, torch.Generator().manual_seed(seed))
        assert len(asked.words) == count
        assert not {"the", "a"} & {WORDS[word] for word in asked.words}
        assert next(asked.answers())
