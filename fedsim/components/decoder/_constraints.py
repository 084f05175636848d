"""Code of constraints on what a decoder writes: rules on text, and how they are asked about tokens.

A rule says of a text whether it can still become one that is allowed, and whether it is one. A constraint says the same
of tokens behind a prompt. A rule may say yes to a beginning that nothing can complete: that costs time, and no truth.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from fedsim.core.errors import FedsimError, MissingExtra, in_a_line
from fedsim.core.types import Tokenizer

_INSTALL = "pip install 'fedsim-privacy[constrain]'"
_FIRST_BYTES = range(0xC2, 0xF5)  # of a sign of several bytes
# Signs of several bytes, one for each way in which \w, \d, \s and line ends tell them apart; the other parts of a
# pattern that is plain cannot.
_OF_EACH_KIND = "\u00e9\u0663\u00a0\u2014\u0085\u2028"
_NOT_PLAIN = re.compile(r"[^\x00-\x7f]|\\[uUxNpPL0-9]|\(\?[a-zA-Z]|\[\[|--|&&|\|\||~~")
_CUT = "\ufffd"  # what a tokenizer returns for bytes that are no sign yet


class Constraint(Protocol):
    """Which tokens may stand behind a prompt."""

    def allows(self, tokens: Sequence[int]) -> bool:
        """Say whether they are complete, or become so by more tokens."""
        ...

    def completes(self, tokens: Sequence[int]) -> bool:
        """Say whether they are complete."""
        ...


class TextRule(Protocol):
    """Which texts are allowed."""

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Say whether some allowed text begins with it; `is_cut`: and with the first bytes of one more letter."""
        ...

    def is_whole(self, text: str) -> bool:
        """Say whether it is allowed."""
        ...


class Anything:
    """Allows all tokens."""

    def allows(self, tokens: Sequence[int]) -> bool:
        """Say yes."""
        return True

    def completes(self, tokens: Sequence[int]) -> bool:
        """Say yes."""
        return True


class OfText:
    """A rule on the text of the tokens behind a prompt.

    A token without a text, such as a border token, is never allowed: it would let a text go on for ever.

    Args:
        rule: what the text may be.
        tokenizer: of the model.
    """

    def __init__(self, rule: TextRule, tokenizer: Tokenizer) -> None:
        self._rule, self._tokenizer = rule, tokenizer
        self._silent: dict[int, bool] = {}

    def allows(self, tokens: Sequence[int]) -> bool:
        """Say whether some allowed text begins with the text of these tokens; a last letter may lack bytes."""
        if tokens and self._is_silent(tokens[-1]):
            return False
        text = self._tokenizer.decode(tokens)
        whole = text.removesuffix(_CUT)
        return _CUT not in whole and self._rule.begins(whole, is_cut=whole != text)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Say whether their text is allowed."""
        text = self._tokenizer.decode(tokens)
        return _CUT not in text and self._rule.is_whole(text)

    def _is_silent(self, token: int) -> bool:
        if token not in self._silent:
            self._silent[token] = token >= self._tokenizer.vocabulary or not self._tokenizer.decode([token])
        return self._silent[token]


class Regex:
    """A regular expression that the whole text matches.

    Raises:
        MissingExtra: package regex is not installed; that of the standard library knows no beginnings.
        FedsimError: the pattern is none.
    """

    def __init__(self, pattern: str) -> None:
        package = _package("regex")
        try:
            self._pattern = package.compile(pattern)
        except package.error as error:
            raise FedsimError(f"regex: '{pattern}' is no regular expression: {error}.") from error
        self._is_plain = is_plain(pattern)

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Say whether some match begins with it; a last letter that lacks bytes is tried only with a plain pattern."""
        ways = [text + sign for sign in _OF_EACH_KIND] if is_cut and self._is_plain else [text]
        return any(self._pattern.fullmatch(way, partial=True) is not None for way in ways)

    def is_whole(self, text: str) -> bool:
        """Say whether it is a match."""
        return self._pattern.fullmatch(text) is not None


class LarkGrammar:
    """A grammar of package lark, read as LALR(1), with the longest match of its terminals.

    Args:
        grammar: in lark's language.
        start: the rule that a whole text follows.

    Raises:
        MissingExtra: package lark or regex is not installed.
        FedsimError: lark cannot read the grammar.
    """

    def __init__(self, grammar: str, start: str) -> None:
        self._lark = _package("lark")
        package = _package("regex")
        try:
            self._parser = self._lark.Lark(grammar, start=start, parser="lalr", regex=True)
        except self._lark.exceptions.LarkError as error:
            raise FedsimError(f"grammar: lark cannot read it as LALR(1): {in_a_line(error)}") from error
        patterns = {terminal.name: terminal.pattern.to_regexp() for terminal in self._parser.terminals}
        self._terminals = {name: package.compile(pattern) for name, pattern in patterns.items()}
        self._is_plain = all(map(is_plain, patterns.values()))

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Say whether the parser gets to the end, or to a last terminal that may become whole.

        An LALR parser never shifts a token behind which no text can follow. A last sign that is cut counts as in
        `Regex`.
        """
        ways = [text + sign for sign in _OF_EACH_KIND] if is_cut and self._is_plain else [text]
        return any(map(self._is_viable, ways))

    def _is_viable(self, text: str) -> bool:
        state = self._parser.parse_interactive(text)
        tokens = state.lexer_thread.lex(state.parser_state)
        try:
            while (token := next(tokens, None)) is not None:
                if self._may_go_on(state, text[token.start_pos :]):
                    return True
                state.feed_token(token)
        except self._lark.exceptions.UnexpectedInput as error:
            return self._may_go_on(state, text[error.pos_in_stream :])
        return True

    def is_whole(self, text: str) -> bool:
        """Say whether it can be parsed."""
        try:
            self._parser.parse(text)
        except self._lark.exceptions.UnexpectedInput:
            return False
        return True

    def _may_go_on(self, state: Any, rest: str) -> bool:
        """Say whether a terminal that may stand here begins with the rest."""
        begun = [name for name, terminal in self._terminals.items() if terminal.fullmatch(rest, partial=True)]
        return bool(begun) and not (state.accepts() | set(self._parser.ignore_tokens)).isdisjoint(begun)


class JsonSchema:
    """A JSON text that a schema allows, by package llguidance, byte by byte.

    Raises:
        MissingExtra: llguidance is not installed.
        FedsimError: it cannot read the schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        llguidance = _package("llguidance")
        self._start = llguidance.LLMatcher(
            llguidance.LLTokenizer("byte"),
            llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)),
            log_level=0,
        )
        if self._start.is_error():
            raise FedsimError(f"json_schema: llguidance cannot read it: {self._start.get_error().splitlines()[0]}")

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Say whether a JSON text that the schema allows begins with it."""
        content = list(text.encode())
        ways = [[*content, byte] for byte in _FIRST_BYTES] if is_cut else [content]
        return any(self._start.validate_tokens(way) == len(way) for way in ways)

    def is_whole(self, text: str) -> bool:
        """Say whether the schema allows it."""
        content, matcher = list(text.encode()), self._start.deep_copy()
        return matcher.try_consume_tokens(content) == len(content) and matcher.is_accepting()


class Predicate:
    """A rule that is a Python function: ``allows(text, is_whole) -> bool``."""

    def __init__(self, function: Callable[[str, bool], bool]) -> None:
        self._function = function

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Ask the function whether an allowed text may begin so."""
        return bool(self._function(text, False))

    def is_whole(self, text: str) -> bool:
        """Ask the function whether the text is allowed."""
        return bool(self._function(text, True))


def is_plain(pattern: str) -> bool:
    """Say whether a pattern names no sign of several bytes, alone or by a property, and changes no flags."""
    return _NOT_PLAIN.search(pattern) is None


@lru_cache(maxsize=32)
def regex(pattern: str) -> TextRule:
    """Return the rule of a pattern, which is compiled once."""
    return Regex(pattern)


@lru_cache(maxsize=32)
def grammar(text: str, start: str) -> TextRule:
    """Return the rule of a grammar, which is compiled once."""
    return LarkGrammar(text, start)


@lru_cache(maxsize=32)
def json_schema(text: str) -> TextRule:
    """Return the rule of a schema, written as JSON, which is compiled once."""
    return JsonSchema(json.loads(text))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(f"{name}, which checks what is written,", _INSTALL) from None
