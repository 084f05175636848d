"""Emptiness of the intersection against every filling, for exact gaps and for gaps of any text."""

import re
from itertools import product

import pytest
import torch

from fedsim.components.unmasker._emptiness import END, MASKED, Gap, Place, completions, witness
from fedsim.components.unmasker._grammar import read_grammar
from tests.components.unmasker.grammars import GRAMMARS, derives, texts

BRACKETS = GRAMMARS["brackets"]
SIGNS = "()[]"


def found(pattern: list[Place], gap: Gap, *, ends: bool = True) -> list[str] | None:
    grammar = read_grammar(BRACKETS)
    return witness(grammar, completions(pattern, grammar.alphabet, gap, ends=ends))


def shown(pattern: str) -> list[Place]:
    return [MASKED if own == "?" else END if own == "." else (own,) for own in pattern]


def fillings(pattern: str, known: set[str], ends: bool) -> set[str]:
    """The texts of the grammar that an exact pattern can become."""
    cut = pattern.partition(".")[0]
    ended = ends or "." in pattern
    lengths = [n for n in range(len(cut) + 1) if n == len(cut) or (ended and set(cut[n:]) <= {"?"})]
    return {own for own in known if len(own) in lengths and all(a in ("?", b) for a, b in zip(cut, own, strict=False))}


@pytest.mark.parametrize("ends", [False, True])
def test_exact_gaps_are_decided_as_by_trying_every_filling(ends: bool) -> None:
    known, tried = texts(BRACKETS, 5), 0
    for length in range(6):
        for own in product(SIGNS + "?", repeat=length):
            pattern = "".join(own)
            expected, completion = fillings(pattern, known, ends), found(shown(pattern), "exact", ends=ends)
            assert (completion is not None) == bool(expected)
            assert completion is None or "".join(completion) in expected
            tried += 1
    assert tried == sum(5**n for n in range(6))


@pytest.mark.parametrize("ends", [False, True])
def test_ends_in_exact_gaps_are_decided_so_too(ends: bool) -> None:
    """Before a written end a masked place may be the end already, wherever else texts may end."""
    known = texts(BRACKETS, 5)
    for own in product("([)?.", repeat=4):
        pattern = "".join(own)
        expected, completion = fillings(pattern, known, ends), found(shown(pattern), "exact", ends=ends)
        assert (completion is not None) == bool(expected)
        assert completion is None or "".join(completion) in expected


def agrees(text: str, pattern: str) -> bool:
    """Whether a text has the chunks of a pattern, with anything at its gaps and nothing where there is no gap."""
    chunks = pattern.partition(".")[0].split("?")
    return re.fullmatch(".*".join(map(re.escape, chunks)), text) is not None


@pytest.mark.parametrize("length", [0, 1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_gaps_of_any_text_are_decided_as_by_trying_texts_up_to_twelve_signs(length: int) -> None:
    known = sorted(texts(BRACKETS, 10))  # four signs need four more at most; ten leave room for both ends
    for own in product("([)?.", repeat=length):
        pattern = "".join(own)
        completion = found(shown(pattern), "any")
        assert (completion is not None) == any(agrees(text, pattern) for text in known)
        if completion is not None:
            assert derives(BRACKETS, "".join(completion))
            assert agrees("".join(completion), pattern)


def test_masking_a_place_keeps_a_pattern_completable() -> None:
    generator = torch.Generator().manual_seed(0)
    for text in sorted(texts(BRACKETS, 6)):
        pattern = list(text)
        for place in torch.randperm(len(text), generator=generator).tolist():
            for gap in ("exact", "any"):
                assert found(shown("".join(pattern)), gap) is not None
            pattern[place] = "?"


def test_a_chunk_before_an_end_or_the_last_place_differs_from_one_before_a_gap() -> None:
    for end in ("", "."):
        assert found(shown("(" + end), "any") is None
        assert found(shown("(?" + end), "any") is not None
