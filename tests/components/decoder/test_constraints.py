"""Rules on text against the enumeration of their languages, and against second libraries."""

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fedsim.components.decoder._constraints import JsonSchema, LarkGrammar, OfText, Regex, TextRule
from fedsim.core.errors import FedsimError, MissingExtra
from fedsim.data._tokenizer import WordTokenizer

SUMS = r"""
start: term ("+" term)*
term: NUMBER | FLOAT | "(" start ")"
NUMBER: /[12]+/
FLOAT: /[12]+\.[12]+/
"""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def check_beginnings(rule: TextRule, is_whole: Callable[[str], bool], signs: str, length: int, more: int) -> None:
    """A text of up to `length` signs begins one of the language exactly if one of up to `more` further signs does."""
    language = {
        text
        for count in range(length + more + 1)
        for own in itertools.product(signs, repeat=count)
        if is_whole(text := "".join(own))
    }
    begun = {text[:count] for text in language for count in range(len(text) + 1)}
    assert len(language) >= 3
    for count in range(length + 1):
        for own in itertools.product(signs, repeat=count):
            text = "".join(own)
            assert rule.is_whole(text) == (text in language), text
            assert rule.begins(text) == (text in begun), text


@pytest.mark.parametrize("pattern", ["(ab|ba)+1?", "a*b", "a{2}(b|1)*", "(?:a|1)b|1", "(a|ab)(1|b1)"])
def test_a_regular_expression_knows_its_beginnings(pattern: str) -> None:
    import re

    check_beginnings(Regex(pattern), lambda text: re.fullmatch(pattern, text) is not None, "ab1", 5, 2)


def test_a_grammar_knows_its_beginnings() -> None:
    lark = pytest.importorskip("lark")
    other = lark.Lark(SUMS, parser="earley")

    def is_whole(text: str) -> bool:
        try:
            other.parse(text)
        except lark.exceptions.LarkError:
            return False
        return True

    check_beginnings(LarkGrammar(SUMS, "start"), is_whole, "1.+()", 2, 3)


def test_a_grammar_agrees_with_a_second_library_beginning_by_beginning() -> None:
    pytest.importorskip("lark")
    own = pytest.importorskip("llguidance")
    grammar, theirs = LarkGrammar(SUMS, "start"), own.LLMatcher.grammar_from_lark(SUMS)
    start = own.LLMatcher(own.LLTokenizer("byte"), theirs)
    assert not start.is_error()
    answers = set()
    for count in range(7):
        for some in itertools.product("1.+(", repeat=count):
            text = "".join(some)
            answers.add(grammar.begins(text))
            assert grammar.begins(text) == (start.validate_tokens(list(text.encode())) == len(text)), text
    assert answers == {True, False}


def test_blanks_that_a_grammar_ignores_stand_anywhere() -> None:
    pytest.importorskip("lark")
    rule = LarkGrammar('start: "yes" ("," "no")*\n%ignore " "', "start")
    assert [rule.begins(text) for text in ("", " ", "ye", "yes ", "yes , n", "yes , nn", "no")] == [True] * 5 + [
        False
    ] * 2
    assert [rule.is_whole(text) for text in ("yes , no ", "yes,", "")] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "age": 7}',
        '{"name":"","age":-12}',
        '{"name": "Anna", "age": 7}',
        '{"name": "Ann", "age": 7.5}',
        '{"name": "Ann", "age": "7"}',
        '{"name": "Ann"}',
        '{"name": "Ann", "age": 7, "more": 1}',
        "[]",
    ],
)
def test_a_schema_agrees_with_a_second_library(text: str) -> None:
    pytest.importorskip("llguidance")
    jsonschema = pytest.importorskip("jsonschema")
    is_valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text))
    rule = JsonSchema(SCHEMA)
    assert rule.is_whole(text) == is_valid
    begun = [rule.begins(text[:count]) for count in range(len(text) + 1)]
    assert begun[0]
    assert begun == sorted(begun, reverse=True), "what is no beginning never becomes one"
    assert begun[-1] == is_valid or text == '{"name": "Ann"}'
    assert not rule.is_whole(text[:-1])


def test_a_schema_knows_where_a_sign_of_several_bytes_may_begin() -> None:
    pytest.importorskip("llguidance")
    rule = JsonSchema(SCHEMA)
    begun = [rule.begins(text, is_cut=True) for text in ("", "{", '{"name": "', '{"name": "Ann", "age": ')]
    assert begun == [False, False, True, False]


@pytest.mark.parametrize(
    ("pattern", "text", "may_follow"),
    [
        ("ab[12]", "a", False),
        ("ab[12]", "ab", False),
        (".+", "a", True),
        (r"a\w", "a", True),
        (r"a\d", "a", True),
        (r"a[^\w\s]", "a", True),
        (r"a[^\W\d_]", "a", True),
        (r"a\s", "a", True),
        ("[^b]", "", True),
        (r"a\n", "a", False),
        ("n\u03b1", "n", True),
        (r"n[\u03b1-\u03c9]", "n", True),
        (r"n\p{Greek}", "n", True),
        ("(?i)k", "", True),
    ],
)
def test_where_a_sign_of_several_bytes_may_begin_none_is_refused(pattern: str, text: str, may_follow: bool) -> None:
    assert Regex(pattern).begins(text, is_cut=True) == may_follow
    signs = [chr(code) for code in range(0x80, 0x3000)]
    possible = any(Regex(pattern).begins(text + sign) for sign in signs)
    assert may_follow or not possible


def test_a_grammar_knows_where_a_sign_of_several_bytes_may_begin() -> None:
    pytest.importorskip("lark")
    rule = LarkGrammar('start: "a" NAME\nNAME: /\\w[12]/', "start")
    assert [rule.begins(text, is_cut=True) for text in ("", "a", "ab", "ab1")] == [False, True, False, False]


def test_bytes_of_a_sign_that_is_not_whole_are_passed_over_and_tokens_without_text_refused() -> None:
    tokenizer = WordTokenizer()
    own = OfText(Regex("né+"), tokenizer)
    tokens = list("né".encode())
    assert [own.allows(tokens[:count]) for count in range(4)] == [True] * 4
    assert [own.completes(tokens[:count]) for count in range(4)] == [False, False, False, True]
    assert not own.allows([*tokens, ord("n")])
    anything = OfText(Regex("(?s:.*)"), tokenizer)
    assert anything.allows([0xC3])
    assert not anything.allows([0xC3, 0xC3]), "two signs that are not whole are no text"
    assert not anything.allows([0xC3, ord("n")])
    assert not anything.completes([0xC3])
    assert not own.allows([tokens[0], tokenizer.padding])
    assert not own.allows([tokenizer.vocabulary + 3])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Regex("(a"), r"regex: '\(a' is no regular expression: missing \)"),
        (lambda: LarkGrammar("start: (", "start"), r"grammar: lark cannot read it as LALR\(1\): Unclosed parenthesis"),
        (lambda: LarkGrammar('start: a | b\na: "x"\nb: "x"', "start"), r"LALR\(1\): Reduce/Reduce collision"),
        (lambda: LarkGrammar('start: "x"', "begin"), r"LALR\(1\): Using an undefined rule"),
        (lambda: JsonSchema({"type": "objet"}), "json_schema: llguidance cannot read it: Invalid type: objet"),
        (lambda: JsonSchema({"minimum": 3, "maximum": 2, "type": "integer"}), "Unsatisfiable schema"),
    ],
)
def test_what_is_no_constraint_is_refused_in_a_sentence(make: Callable[[], Any], reason: str) -> None:
    pytest.importorskip("lark")
    pytest.importorskip("llguidance")
    with pytest.raises(FedsimError, match=reason):
        make()


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("regex", lambda: Regex("a")),
        ("lark", lambda: LarkGrammar('start: "x"', "start")),
        ("llguidance", lambda: JsonSchema({})),
    ],
)
def test_without_its_package_the_line_to_install_is_named(
    package: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}, which checks .*\n  pip install 'fedsim-privacy\[constrain\]'"):
        make()
