"""Emptiness test for the intersection of a context-free grammar with the regular language of a text with gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fedsim.components.unmasker._grammar import Grammar

Place = tuple[str, ...] | None  # the symbols of a token, () for the end; None if masked
MASKED: Place = None
END: Place = ()


@dataclass(frozen=True)
class Automaton:
    """A regular language of token sequences: edges between states by a symbol, each edge to a higher state.

    Attributes:
        edges: (state, symbol, state).
        finals: final states.
        borders: state before each position, and the state after the last position; the first border is the initial
            state 0. States between two borders are inside a token.
    """

    edges: frozenset[tuple[int, str, int]]
    finals: frozenset[int]
    borders: tuple[int, ...]


class Derivation(NamedTuple):
    """A nonterminal that derives a text that leads from state `begin` to state `end`."""

    begin: int
    name: str
    end: int


def completions(pattern: Sequence[Place], vocabulary: Collection[tuple[str, ...]], *, ends: bool) -> Automaton:
    """Return the language of all texts that a pattern can become.

    A masked position becomes one token, or the end if all later positions are masked or an end.

    Args:
        pattern: positions in order; everything after the first end is ignored.
        vocabulary: spellings of the tokens allowed at masked positions, each of at least one symbol.
        ends: whether texts may end before the last position.
    """
    end = next((place for place, token in enumerate(pattern) if token == END), None)
    places = list(pattern if end is None else pattern[:end])
    edges: set[tuple[int, str, int]] = set()
    borders, spellings = [0], frozenset(vocabulary)
    for token in places:
        begin, branches = borders[-1], _branches(spellings if token is None else frozenset({token}))
        edges |= {(begin + state, symbol, begin + after) for state, symbol, after in branches.edges}
        borders.append(begin + branches.end)
    shortest = len(places)
    while (ends or end is not None) and shortest > 0 and places[shortest - 1] is MASKED:
        shortest -= 1
    return Automaton(frozenset(edges), frozenset(borders[shortest:]), tuple(borders))


class _Branches(NamedTuple):
    """Edges from state 0 to state `end` that spell the tokens of one position."""

    edges: tuple[tuple[int, str, int], ...]
    end: int


@lru_cache(maxsize=4096)
def _branches(spellings: frozenset[tuple[str, ...]]) -> _Branches:
    """Return a minimal automaton of the spellings: a state for each different set of remaining suffixes."""
    steps: dict[frozenset[tuple[str, ...]], dict[str, set[tuple[str, ...]]]] = {}
    unread = [spellings]
    while unread:
        suffixes = unread.pop()
        if suffixes in steps:
            continue
        steps[suffixes] = defaultdict(set)
        for symbol, *later in suffixes:
            steps[suffixes][symbol].add(tuple(later))
        unread += [inner for later in steps[suffixes].values() if (inner := frozenset(later - {()}))]
    longest_first = sorted(steps, key=lambda suffixes: -max(map(len, suffixes), default=0))
    number, end = {suffixes: place for place, suffixes in enumerate(longest_first)}, len(longest_first)
    edges: list[tuple[int, str, int]] = []
    for suffixes, by_symbol in steps.items():
        for symbol, later in by_symbol.items():
            edges += [(number[suffixes], symbol, end)] if () in later else []
            edges += [(number[suffixes], symbol, number[inner])] if (inner := frozenset(later - {()})) else []
    return _Branches(tuple(edges), end)


def has_text(grammar: Grammar, automaton: Automaton) -> bool:
    """Return whether some text is in both grammar and automaton.

    From the last state to the first: `rows[A][p]` has bit q set if A derives a text leading from p to q.
    """
    rules, states = _rules_by_part(grammar), automaton.borders[-1] + 1
    leaving: list[list[tuple[str, int]]] = [[] for _ in range(states)]
    for p, symbol, q in automaton.edges:
        leaving[p].append((symbol, q))
    rows: dict[str, list[int]] = defaultdict(lambda: [0] * states)
    for p in reversed(range(states)):
        pending: dict[str, int] = defaultdict(int)

        def add(name: str, ends: int, p: int = p, pending: dict[str, int] = pending) -> None:
            new = ends & ~rows[name][p]
            if new:
                rows[name][p] |= new
                pending[name] |= new

        for symbol, q in leaving[p]:
            for name in rules.symbols[symbol]:
                add(name, 1 << q)
        for name in grammar.empties:
            add(name, 1 << p)
        while pending:
            name, new = pending.popitem()
            for outer in rules.units[name]:
                add(outer, new)
            for outer, second in rules.firsts[name]:
                for q in _bits(new):
                    add(outer, rows[second][q])
            for outer, first in rules.seconds[name]:
                if rows[first][p] >> p & 1:
                    add(outer, new)
    return any(rows[grammar.start][0] >> final & 1 for final in automaton.finals)


def _bits(number: int) -> Iterator[int]:
    """Yield the indices of the set bits, ascending."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def witness(grammar: Grammar, automaton: Automaton) -> list[tuple[str, ...]] | None:
    """Return the tokens of a text in both grammar and automaton, each as its symbols; None if absent.

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
            return _tokens(item, derived.came, automaton.borders)
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


def _tokens(
    item: Derivation, came: dict[Derivation, tuple[Derivation, ...] | str], borders: tuple[int, ...]
) -> list[tuple[str, ...]]:
    """Return the tokens that an item derives; iterative, because texts may be long."""
    tokens: list[tuple[str, ...]] = []
    symbols: tuple[str, ...] = ()
    left = [item]
    while left:
        part = left.pop()
        source = came[part]
        if not isinstance(source, str):
            left += reversed(source)
            continue
        symbols += (source,)
        if part.end in borders:
            tokens.append(symbols)
            symbols = ()
    return tokens
