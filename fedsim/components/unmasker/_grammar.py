"""Context-free grammars: parsed from text, and normalised to rules of four forms.

    Value = "d" | "[" List "]"
    List = Value | Value "," List
    Rest = | "," Value Rest

A rule has a name on its left side, then alternatives; an empty alternative derives the empty text. The first rule is
the start. Quoted text is a sequence of characters; a number is the token with this id.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from fedsim.core.errors import FedsimError, did_you_mean

_PIECE = re.compile(r'\s*(?:"([^"]*)"|(\d+)|([A-Za-z_]\w*)|(\|)|(\S))')


@dataclass(frozen=True)
class Grammar:
    """Rules of the forms A -> B C, A -> B, A -> a and A -> empty.

    Attributes:
        start: start symbol.
        pairs: (A, B, C).
        units: (A, B).
        terminals: (A, a).
        empties: A.
    """

    start: str
    pairs: frozenset[tuple[str, str, str]]
    units: frozenset[tuple[str, str]]
    terminals: frozenset[tuple[str, str]]
    empties: frozenset[str]

    @property
    def alphabet(self) -> frozenset[str]:
        """All terminals."""
        return frozenset(terminal for _, terminal in self.terminals)


Body = tuple[tuple[bool, str], ...]  # for each symbol, whether it is a terminal, and its name


def token_symbol(token: int) -> str:
    """Return the terminal of a token without text."""
    return f"#{token}"


@lru_cache(maxsize=16)
def read_grammar(text: str) -> Grammar:
    """Parse a grammar and normalise it.

    Raises:
        FedsimError: a syntax error, an undefined rule name, or an empty language.
    """
    return short_grammar(read_rules(text))


@lru_cache(maxsize=16)
def representatives(grammar: Grammar) -> dict[str, str]:
    """Return, for each terminal, the smallest terminal with the same rules: a text keeps its validity if they swap."""
    names: dict[str, set[str]] = defaultdict(set)
    for name, terminal in grammar.terminals:
        names[terminal].add(name)
    smallest: dict[frozenset[str], str] = {}
    for terminal in sorted(names):
        smallest.setdefault(frozenset(names[terminal]), terminal)
    return {terminal: smallest[frozenset(own)] for terminal, own in names.items()}


def short_grammar(rules: Sequence[tuple[str, Body]]) -> Grammar:
    """Normalise rules; the first rule is the start.

    Raises:
        FedsimError: an undefined rule name, or an empty language.
    """
    names = {name for name, _ in rules}
    for name, body in rules:
        unknown = [symbol for is_terminal, symbol in body if not is_terminal and symbol not in names]
        if unknown:
            raise FedsimError(
                f"grammar: rule '{name}' names '{unknown[0]}', which has no rule.{did_you_mean(unknown[0], names)}"
            )
    grammar = _split_alternatives(rules)
    if grammar.start not in _find_generating(grammar):
        raise FedsimError(
            f"grammar: no text can be completed from '{grammar.start}', since every alternative recurses "
            "forever. Add an alternative that ends."
        )
    return _remove_useless(grammar)


def read_rules(text: str) -> list[tuple[str, Body]]:
    """Return each alternative with the name on its left side.

    Raises:
        FedsimError: a line is no rule.
    """
    rules: list[tuple[str, Body]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, equals, right = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            raise FedsimError(f'grammar: line {number} is no rule: expected for example  Value = "d" | "[" Value "]".')
        rules += [(name.strip(), body) for body in _bodies(right, number)]
    if not rules:
        raise FedsimError('grammar: it has no rule. Write for example  S = "(" S ")" S | .')
    return rules


def _bodies(right: str, number: int) -> list[Body]:
    bodies: list[list[tuple[bool, str]]] = [[]]
    for quoted, token, name, bar, letter in _PIECE.findall(right.rstrip()):
        if letter:
            raise FedsimError(f"grammar: line {number} has '{letter}', expected text in quotes, numbers, names or '|'.")
        if bar:
            bodies.append([])
        elif name:
            bodies[-1].append((False, name))
        elif token:
            bodies[-1].append((True, token_symbol(int(token))))
        else:
            bodies[-1] += [(True, sign) for sign in quoted]
    return [tuple(body) for body in bodies]


def _split_alternatives(rules: Sequence[tuple[str, Body]]) -> Grammar:
    """Split long alternatives; equal suffixes share a nonterminal."""
    pairs: set[tuple[str, str, str]] = set()
    units: set[tuple[str, str]] = set()
    terminals: set[tuple[str, str]] = set()
    empties: set[str] = set()
    fresh, rests = count(), dict[Body, str]()

    def name_of(remainder: Body) -> str:
        (is_terminal, symbol), *later_symbols = remainder
        if not later_symbols and not is_terminal:
            return symbol
        if remainder not in rests:
            rests[remainder] = f"<{next(fresh)}>"
            add(rests[remainder], remainder)
        return rests[remainder]

    def add(name: str, body: Body) -> None:
        if not body:
            empties.add(name)
            return
        (is_terminal, symbol), *tail = body
        if tail:
            pairs.add((name, name_of(body[:1]), name_of(tuple(tail))))
        elif is_terminal:
            terminals.add((name, symbol))
        else:
            units.add((name, symbol))

    for name, body in rules:
        add(name, body)
    return Grammar(rules[0][0], frozenset(pairs), frozenset(units), frozenset(terminals), frozenset(empties))


def _find_generating(grammar: Grammar) -> set[str]:
    """Return the nonterminals that derive some text."""
    generating = {name for name, _ in grammar.terminals} | set(grammar.empties)
    while True:
        grown = {a for a, b in grammar.units if b in generating} | {
            a for a, b, c in grammar.pairs if {b, c} <= generating
        }
        if grown <= generating:
            return generating
        generating |= grown


def _remove_useless(grammar: Grammar) -> Grammar:
    """Remove nonterminals that derive no text or are unreachable from the start."""
    alive = _find_generating(grammar)
    pairs = {pair for pair in grammar.pairs if set(pair) <= alive}
    units = {unit for unit in grammar.units if set(unit) <= alive}
    reached = {grammar.start}
    while True:
        grown = {b for a, b in units if a in reached} | {b for pair in pairs if pair[0] in reached for b in pair[1:]}
        if grown <= reached:
            break
        reached |= grown
    return Grammar(
        grammar.start,
        frozenset(pair for pair in pairs if pair[0] in reached),
        frozenset(unit for unit in units if unit[0] in reached),
        frozenset(terminal for terminal in grammar.terminals if terminal[0] in reached),
        frozenset(grammar.empties & reached),
    )
