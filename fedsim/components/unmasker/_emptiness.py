"""Emptiness test for the intersection of a context-free grammar with the regular language of a text with gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from fedsim.components.unmasker._grammar import Grammar

Place = tuple[str, ...] | None  # the symbols of a token, () for the end; None if masked
Gap = Literal["exact", "any"]
MASKED: Place = None
END: Place = ()


@dataclass(frozen=True)
class Automaton:
    """A regular language: edges between states by a symbol; state 0 is the initial state."""

    edges: frozenset[tuple[int, str, int]]
    finals: frozenset[int]


class Derivation(NamedTuple):
    """A nonterminal that derives a text that leads from state `begin` to state `end`."""

    begin: int
    name: str
    end: int


def completions(pattern: Sequence[Place], alphabet: Iterable[str], gap: Gap, *, ends: bool) -> Automaton:
    """Return the language of all texts that a pattern can become.

    Args:
        pattern: positions in order; everything after the first end is ignored.
        alphabet: symbols allowed at masked positions.
        gap: exact: a masked position becomes one symbol, or the end if all later positions are masked or an end. any: a
            masked position becomes any text; without masked positions the text is fixed.
        ends: whether texts may end before the last position; with gap = any a masked position may be empty anyway.
    """
    symbols, places = list(alphabet), list(pattern)
    end = next((place for place, token in enumerate(places) if token == END), None)
    places = places if end is None else places[:end]
    if gap == "exact":
        return _exact(places, symbols, ends or end is not None)
    return _line_automaton(places, symbols)


def _exact(places: Sequence[Place], symbols: Sequence[str], may_end: bool) -> Automaton:
    edges: set[tuple[int, str, int]] = set()
    for place, token in enumerate(places):
        edges |= {(place, symbol, place + 1) for symbol in (symbols if token is None else token)}
    finals = {len(places)}
    while may_end and min(finals) > 0 and places[min(finals) - 1] is MASKED:
        finals.add(min(finals) - 1)
    return Automaton(frozenset(edges), frozenset(finals))


def _line_automaton(places: Sequence[Place], symbols: Sequence[str]) -> Automaton:
    edges: set[tuple[int, str, int]] = set()
    state = 0
    for token in places:
        if token is None:
            edges |= {(state, symbol, state) for symbol in symbols}
            continue
        for symbol in token:
            edges.add((state, symbol, state + 1))
            state += 1
    return Automaton(frozenset(edges), frozenset({state}))


def witness(grammar: Grammar, automaton: Automaton) -> list[str] | None:
    """Return the symbols of a text in both grammar and automaton; None if absent.

    Bottom-up: an item (p, A, q) means that A derives a text leading from p to q. Each item stores its origin.
    """
    rules, derived = _rules_by_part(grammar), _Derived()
    for p, symbol, q in automaton.edges:
        for name in rules.symbols[symbol]:
            derived.add(Derivation(p, name, q), symbol)
    for state in {0, *automaton.finals, *(end_state for p, _, q in automaton.edges for end_state in (p, q))}:
        for name in grammar.empties:
            derived.add(Derivation(state, name, state), ())
    while derived.work:
        item = derived.take()
        p, name, q = item
        if p == 0 and name == grammar.start and q in automaton.finals:
            return _spelled(item, derived.came)
        for outer in rules.units[name]:
            derived.add(Derivation(p, outer, q), (item,))
        for outer, second in rules.firsts[name]:
            for end in derived.ends[second, q]:
                derived.add(Derivation(p, outer, end), (item, Derivation(q, second, end)))
        for outer, first in rules.seconds[name]:
            for begin in derived.begins[first, p]:
                derived.add(Derivation(begin, outer, q), (Derivation(begin, first, p), item))
    return None


class _Derived:
    """Derived items with their origins, a queue of unprocessed items, and an index of processed items."""

    def __init__(self) -> None:
        self.came: dict[Derivation, tuple[Derivation, ...] | str] = {}
        self.work: list[Derivation] = []
        self.ends: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.begins: dict[tuple[str, int], list[int]] = defaultdict(list)

    def add(self, item: Derivation, source: tuple[Derivation, ...] | str) -> None:
        """Add an item unless it is known."""
        if item not in self.came:
            self.came[item] = source
            self.work.append(item)

    def take(self) -> Derivation:
        """Pop an unprocessed item and add it to the index."""
        item = self.work.pop()
        self.ends[item.name, item.begin].append(item.end)
        self.begins[item.name, item.end].append(item.begin)
        return item


class _Rules(NamedTuple):
    """Rules of a grammar, indexed by a symbol of their right side."""

    symbols: dict[str, list[str]]
    units: dict[str, list[str]]
    firsts: dict[str, list[tuple[str, str]]]
    seconds: dict[str, list[tuple[str, str]]]


@lru_cache(maxsize=16)
def _rules_by_part(grammar: Grammar) -> _Rules:
    rules = _Rules(defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list))
    for name, symbol in grammar.terminals:
        rules.symbols[symbol].append(name)
    for name, inner in grammar.units:
        rules.units[inner].append(name)
    for name, first, second in grammar.pairs:
        rules.firsts[first].append((name, second))
        rules.seconds[second].append((name, first))
    return rules


def _spelled(item: Derivation, came: dict[Derivation, tuple[Derivation, ...] | str]) -> list[str]:
    """Return the symbols that an item derives; iterative, because texts may be long."""
    word: list[str] = []
    left = [item]
    while left:
        source = came[left.pop()]
        if isinstance(source, str):
            word.append(source)
        else:
            left += reversed(source)
    return word
