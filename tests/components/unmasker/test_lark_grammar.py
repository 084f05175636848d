"""Grammars of lark derive what lark's own parser accepts; what needs a lexer is named."""

from itertools import product

import pytest

from fedsim.components.unmasker._emptiness import completions, has_text
from fedsim.components.unmasker._lark_grammar import read_lark
from fedsim.core.errors import FedsimError

lark = pytest.importorskip("lark")
JSON = """
start: value
value: "{" [pair ("," pair)*] "}" | "[" [value ("," value)*] "]" | DIGIT
pair: LETTER ":" value
DIGIT: /[12]/
LETTER: "k"
"""
LISTS = """
start: ("(" start ")" | word)*
word: "ab"+ | "c"?
"""


def accepts(grammar: str, text: str) -> bool:
    try:
        lark.Lark(grammar, parser="earley", lexer="dynamic").parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


@pytest.mark.parametrize(
    ("grammar", "signs", "longest"),
    [(JSON, "[]1,", 4), (JSON, "{}k:1,", 4), pytest.param(LISTS, "(abc)", 4, marks=pytest.mark.slow)],
)
def test_it_derives_what_the_package_accepts(grammar: str, signs: str, longest: int) -> None:
    own, found = read_lark(grammar), 0
    for length in range(1, longest + 1):
        for text in map("".join, product(signs, repeat=length)):
            if text.count("[") + text.count("{") > 2:
                continue  # fewer parses of the slow reference
            pattern = completions([(sign,) for sign in text], {(sign,) for sign in own.alphabet}, ends=False)
            derived = has_text(own, pattern)
            if derived or length < longest:
                assert derived == accepts(grammar, text), text
            found += derived
    assert found > 1


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("start: NUMBER\nNUMBER: /[0-9]+/", "terminal NUMBER matches several characters"),
        ('start: "a"\n%ignore " "', "it ignores"),
        ("start: nothing", "lark cannot read it"),
        ('start: "a" start', "no text can be completed from 'start'"),
    ],
)
def test_what_cannot_be_checked_sign_by_sign_is_named(grammar: str, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        read_lark(grammar)
