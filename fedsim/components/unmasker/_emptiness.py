"""Whether a text with gaps can be completed to one of a grammar: is its intersection with a regular language empty?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from fedsim.components.unmasker._grammar import Grammar

Place = tuple[str, ...] | None  # the symbols that a token spells, nothing for the end; None where it is masked
Gap = Literal["exact", "any"]
MASKED: Place = None
END: Place = ()


@dataclass(frozen=True)
class Automaton:
    """A regular language: edges from state to state by a symbol, state 0 begins."""

    edges: frozenset[tuple[int, str, int]]
    finals: frozenset[int]


class Derivation(NamedTuple):
    """A name derives some text that leads from one state to another."""

    begin: int
    name: str
    end: int


def completions(pattern: Sequence[Place], alphabet: Iterable[str], gap: Gap, *, ends: bool) -> Automaton:
    """Return the texts that a pattern can become.

    Args:
        pattern: places in their order; what stands behind the first end counts no more.
        alphabet: symbols that may stand at masked places.
        gap: exact: a masked place becomes one symbol, or the end where everything behind is masked or an end. any:
            a masked place becomes any text; where none is left, the text is what stands there.
        ends: whether texts may end before the last place; with gap = any a masked place may be empty anyway.
    """
    symbols, places = list(alphabet), list(pattern)
    end = next((place for place, token in enumerate(places) if token == END), None)
    places = places if end is None else places[:end]
    if gap == "exact":
        return _exact(places, symbols, ends or end is not None)
    return _any(places, symbols)


def _exact(places: Sequence[Place], symbols: Sequence[str], may_end: bool) -> Automaton:
    edges: set[tuple[int, str, int]] = set()
    for place, token in enumerate(places):
        edges |= {(place, symbol, place + 1) for symbol in (symbols if token is None else token)}
    finals = {len(places)}
    while may_end and min(finals) > 0 and places[min(finals) - 1] is MASKED:
        finals.add(min(finals) - 1)
    return Automaton(frozenset(edges), frozenset(finals))


def _any(places: Sequence[Place], symbols: Sequence[str]) -> Automaton:
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
    """Return symbols of a text that grammar and automaton share; None where there is none.

    Bottom up: an item (p, A, q) says that A derives some text that leads from p to q. Each keeps where it came from.
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
    """Items so far: where each came from, those that wait, and for those that do not, their other ends."""

    def __init__(self) -> None:
        self.came: dict[Derivation, tuple[Derivation, ...] | str] = {}
        self.work: list[Derivation] = []
        self.ends: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.begins: dict[tuple[str, int], list[int]] = defaultdict(list)

    def add(self, item: Derivation, source: tuple[Derivation, ...] | str) -> None:
        """Note an item that is new."""
        if item not in self.came:
            self.came[item] = source
            self.work.append(item)

    def take(self) -> Derivation:
        """Return an item that waits, which others can be joined with from now on."""
        item = self.work.pop()
        self.ends[item.name, item.begin].append(item.end)
        self.begins[item.name, item.end].append(item.begin)
        return item


class _Rules(NamedTuple):
    """Rules of a grammar by a part of their right side."""

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
    """Return the symbols that an item derives; without recursion, since texts may be long."""
    word: list[str] = []
    left = [item]
    while left:
        source = came[left.pop()]
        if isinstance(source, str):
            word.append(source)
        else:
            left += reversed(source)
    return word
