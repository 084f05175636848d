"""Grammars in short shapes derive the texts of the grammar as it was written; mistakes are named."""

from itertools import product

import pytest

from fedsim.components.unmasker._grammar import read_grammar, representatives
from fedsim.core.errors import FedsimError
from tests.components.unmasker.grammars import GRAMMARS, derives, texts


@pytest.mark.parametrize("name", GRAMMARS)
def test_short_shapes_derive_the_same_texts(name: str) -> None:
    grammar, longest = GRAMMARS[name], 6 if name != "json" else 5
    known, signs = texts(grammar, longest), sorted(read_grammar(GRAMMARS[name]).alphabet)
    assert len(known) > 3
    few = signs if len(signs) < 5 else [*signs[:3], *signs[-1:]]
    every = {"".join(own) for n in range(longest + 1) for own in product(few, repeat=n)}
    assert {own for own in every if derives(grammar, own)} == known & every
    assert all(derives(grammar, own) for own in known)


def test_names_that_no_text_comes_from_are_left_out() -> None:
    grammar = read_grammar('S = "a" | B\nB = "b" B\nC = "c"')
    assert grammar.alphabet == {"a"}
    assert not grammar.units


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("S = A", "rule 'S' names 'A', which has no rule"),
        ("S = S \"a\"", "no text can be completed from 'S'"),
        ("S - 3", "line 1 is no rule"),
        ("S = (3)", r"line 1 has '\('"),
        ("\n", "it has no rule"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(grammar: str, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        read_grammar(grammar)


def test_terminals_with_the_same_rules_are_represented_by_the_smallest() -> None:
    grammar = read_grammar('S = "d" X | "b" X\nX = "a" | "c" | "b" |')
    assert representatives(grammar) == {"a": "a", "c": "a", "b": "b", "d": "d"}
    known = texts('S = "d" X | "b" X\nX = "a" | "c" | "b" |', 2)
    assert {text.replace("c", "a") for text in known} == {text for text in known if "c" not in text}
