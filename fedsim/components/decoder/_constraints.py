"""Constraints on generated text: rules on text, and their application to tokens.

A rule decides whether a text is allowed and whether it is a prefix of an allowed text. A constraint decides the same
for tokens after a prompt. A rule may accept a prefix that has no allowed completion: this costs time, but never allows
a wrong text.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from fedsim.core.errors import FedsimError, MissingExtra, first_line
from fedsim.core.types import Tokenizer

_INSTALL = "pip install 'fedsim-privacy[constrain]'"
_FIRST_BYTES = range(0xC2, 0xF5)  # first bytes of a multi-byte UTF-8 character
# Multi-byte characters, for each combination of the classes \w, \d, \s and line ends; a plain pattern cannot
# distinguish them further.
_OF_EACH_KIND = "\u00e9\u0663\u00a0\u2014\u0085\u2028"
_NOT_PLAIN = re.compile(r"[^\x00-\x7f]|\\[uUxNpPL0-9]|\(\?[a-zA-Z]|\[\[|--|&&|\|\||~~")
_CUT = "\ufffd"  # a tokenizer's output for an incomplete UTF-8 character


class Constraint(Protocol):
    """Decides which tokens may follow a prompt."""

    def allows(self, tokens: Sequence[int]) -> bool:
        """Return whether the tokens are complete or can be completed."""
        ...

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether the tokens are complete."""
        ...


class TextRule(Protocol):
    """Decides which texts are allowed."""

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Return whether an allowed text has this prefix; `is_cut`: followed by an incomplete UTF-8 character."""
        ...

    def is_whole(self, text: str) -> bool:
        """Return whether the text is allowed."""
        ...


class Anything:
    """Allows all tokens."""

    def allows(self, tokens: Sequence[int]) -> bool:
        """Return True."""
        return True

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return True."""
        return True


class OfText:
    """A text rule, applied to the tokens after a prompt.

    A token that decodes to no text, such as a border token, is never allowed, because it could be repeated without end.

    Args:
        rule: allowed texts.
        tokenizer: the model's tokenizer.
    """

    def __init__(self, rule: TextRule, tokenizer: Tokenizer) -> None:
        self._rule, self._tokenizer = rule, tokenizer
        self._silent: dict[int, bool] = {}

    def allows(self, tokens: Sequence[int]) -> bool:
        """Return whether an allowed text has the decoded prefix; its last character may lack bytes."""
        if tokens and self._is_silent(tokens[-1]):
            return False
        text = self._tokenizer.decode(tokens)
        whole = text.removesuffix(_CUT)
        return _CUT not in whole and self._rule.begins(whole, is_cut=whole != text)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return whether the decoded text is allowed."""
        text = self._tokenizer.decode(tokens)
        return _CUT not in text and self._rule.is_whole(text)

    def _is_silent(self, token: int) -> bool:
        if token not in self._silent:
            self._silent[token] = token >= self._tokenizer.vocabulary or not self._tokenizer.decode([token])
        return self._silent[token]


class Regex:
    """A regular expression that the whole text must match.

    Raises:
        MissingExtra: package regex is not installed; the standard library has no partial matching.
        FedsimError: the pattern is invalid.
    """

    def __init__(self, pattern: str) -> None:
        package = _package("regex")
        try:
            self._pattern = package.compile(pattern)
        except package.error as error:
            raise FedsimError(f"regex: '{pattern}' is no regular expression: {error}.") from error
        self._is_plain = is_plain(pattern)

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Return whether a match has this prefix; an incomplete last character is tested for plain patterns only."""
        ways = [text + sign for sign in _OF_EACH_KIND] if is_cut and self._is_plain else [text]
        return any(self._pattern.fullmatch(way, partial=True) is not None for way in ways)

    def is_whole(self, text: str) -> bool:
        """Return whether the whole text matches."""
        return self._pattern.fullmatch(text) is not None


class LarkGrammar:
    """A grammar of package lark, parsed as LALR(1), with longest matches of its terminals.

    Args:
        grammar: in lark's syntax.
        start: name of the rule that a whole text must match.

    Raises:
        MissingExtra: package lark or regex is not installed.
        FedsimError: lark rejects the grammar.
    """

    def __init__(self, grammar: str, start: str) -> None:
        self._lark = _package("lark")
        package = _package("regex")
        try:
            self._parser = self._lark.Lark(grammar, start=start, parser="lalr", regex=True)
        except self._lark.exceptions.LarkError as error:
            raise FedsimError(f"grammar: lark cannot read it as LALR(1): {first_line(error)}") from error
        patterns = {terminal.name: terminal.pattern.to_regexp() for terminal in self._parser.terminals}
        self._terminals = {name: package.compile(pattern) for name, pattern in patterns.items()}
        self._is_plain = all(map(is_plain, patterns.values()))

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Return whether the parser reaches the end, or a last terminal that can still be completed.

        An LALR parser never shifts a token that no text can follow. An incomplete last character is treated as in
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
        """Return whether the text can be parsed."""
        try:
            self._parser.parse(text)
        except self._lark.exceptions.UnexpectedInput:
            return False
        return True

    def _may_go_on(self, state: Any, remainder: str) -> bool:
        """Return whether a terminal that is acceptable in this state can begin with the remaining text."""
        begun = [name for name, terminal in self._terminals.items() if terminal.fullmatch(remainder, partial=True)]
        return bool(begun) and not (state.accepts() | set(self._parser.ignore_tokens)).isdisjoint(begun)


class JsonSchema:
    """JSON texts that satisfy a schema, checked byte by byte by package llguidance.

    Raises:
        MissingExtra: llguidance is not installed.
        FedsimError: llguidance rejects the schema.
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
        """Return whether a valid JSON text has this prefix."""
        content = list(text.encode())
        ways = [[*content, byte] for byte in _FIRST_BYTES] if is_cut else [content]
        return any(self._start.validate_tokens(way) == len(way) for way in ways)

    def is_whole(self, text: str) -> bool:
        """Return whether the JSON text satisfies the schema."""
        content, matcher = list(text.encode()), self._start.deep_copy()
        return matcher.try_consume_tokens(content) == len(content) and matcher.is_accepting()


class Predicate:
    """A rule given by a Python function ``allows(text, is_whole) -> bool``."""

    def __init__(self, function: Callable[[str, bool], bool]) -> None:
        self._function = function

    def begins(self, text: str, *, is_cut: bool = False) -> bool:
        """Return whether the function accepts the text as a prefix."""
        return bool(self._function(text, False))

    def is_whole(self, text: str) -> bool:
        """Return whether the function accepts the whole text."""
        return bool(self._function(text, True))


def is_plain(pattern: str) -> bool:
    """Return whether a pattern names no multi-byte character, directly or by a property, and sets no flags."""
    return _NOT_PLAIN.search(pattern) is None


@lru_cache(maxsize=32)
def regex(pattern: str) -> TextRule:
    """Return the rule of a pattern, compiled once."""
    return Regex(pattern)


@lru_cache(maxsize=32)
def grammar(text: str, start: str) -> TextRule:
    """Return the rule of a grammar, compiled once."""
    return LarkGrammar(text, start)


@lru_cache(maxsize=32)
def json_schema(text: str) -> TextRule:
    """Return the rule of a schema given as JSON text, compiled once."""
    return JsonSchema(json.loads(text))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(f"{name}, which checks the generated text,", _INSTALL) from None
