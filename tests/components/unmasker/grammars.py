"""Grammars and all of their texts, by brute force."""

from functools import cache

from fedsim.components.unmasker._emptiness import completions, has_text, witness
from fedsim.components.unmasker._grammar import Body, read_grammar, read_rules

GRAMMARS = {
    "brackets": 'S = "(" S ")" S | "[" S "]" S |',
    "nullable": "A = B C B | \nB = \"b\" | \nC = A | \"c\" \"c\"",
    "cyclic": 'X = Y | "x" X "y"\nY = Z | "z"\nZ = X | Z Z | ""',
    "json": 'V = "{" P "}" | "[" L "]" | "1"\nP = | "k" ":" V M\nM = | "," "k" ":" V M\nL = | V N\nN = | "," V N',
}  # fmt: skip


@cache
def texts(grammar: str, longest: int) -> frozenset[str]:
    """All texts up to a length, by a fixed point over the rules as they were written."""
    rules: dict[str, list[Body]] = {}
    for name, body in read_rules(grammar):
        rules.setdefault(name, []).append(body)
    found: dict[str, set[str]] = {name: set() for name in rules}
    while True:
        before = sum(map(len, found.values()))
        for name, bodies in rules.items():
            for body in bodies:
                parts = [{own} if is_terminal else found[own] for is_terminal, own in body]
                so_far = {""}
                for part in parts:
                    so_far = {a + b for a in so_far for b in part if len(a + b) <= longest}
                found[name] |= so_far
        if sum(map(len, found.values())) == before:
            return frozenset(found[next(iter(rules))])


def derives(grammar: str, text: str) -> bool:
    own = read_grammar(grammar)
    automaton = completions([(sign,) for sign in text], set(), ends=False)
    tokens = witness(own, automaton)
    assert has_text(own, automaton) == (tokens is not None)
    return tokens == [(sign,) for sign in text]
