"""Context-free grammars in lark's syntax, without the lexer: terminals are expanded to characters."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from fedsim.components.unmasker._grammar import Body, Grammar, short_grammar
from fedsim.core.errors import FedsimError, MissingExtra, first_line

_SIGNS = [chr(code) for code in range(32, 127)] + ["\n", "\t"]  # characters that a regex terminal may match


@lru_cache(maxsize=16)
def read_lark(text: str, start: str = "start") -> Grammar:
    """Parse a lark grammar.

    Raises:
        MissingExtra: package lark is not installed.
        FedsimError: lark rejects it, or it needs a lexer: for ignored characters, or expressions of several characters.
    """
    try:
        lark: Any = importlib.import_module("lark")
    except ImportError:
        raise MissingExtra("lark, which reads grammars,", "pip install 'fedsim-privacy[constrain]'") from None
    try:
        parser = lark.Lark(text, start=start, parser="earley", lexer="dynamic", maybe_placeholders=False)
    except lark.exceptions.LarkError as error:
        raise FedsimError(f"grammar: lark cannot read it: {first_line(error)}") from error
    if parser.ignore_tokens:
        raise FedsimError(
            f"grammar: it ignores {parser.ignore_tokens[0]}, which texts are checked without. Name blanks in the rules."
        )
    plain: list[tuple[str, Body]] = [
        (rule.origin.name, tuple((False, symbol.name) for symbol in rule.expansion)) for rule in parser.rules
    ]
    texts = {terminal.name: list(_texts(terminal)) for terminal in parser.terminals}
    spelled = [(name, body) for name, known in texts.items() for body in known]
    return short_grammar([*sorted(plain, key=lambda rule: rule[0] != start), *spelled])


def _texts(terminal: Any) -> Iterator[Body]:
    """Yield the texts that a terminal matches."""
    pattern = terminal.pattern
    if type(pattern).__name__ == "PatternStr" and not pattern.flags:
        yield tuple((True, sign) for sign in pattern.value)
        return
    if pattern.max_width != 1 or pattern.min_width != 1:
        raise FedsimError(
            f"grammar: terminal {terminal.name} matches several characters, and texts are checked character "
            "by character. Write it as a rule of single-character terminals."
        )
    expression = re.compile(pattern.to_regexp())
    yield from (((True, sign),) for sign in _SIGNS if expression.fullmatch(sign))
