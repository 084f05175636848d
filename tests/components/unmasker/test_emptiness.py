"""Emptiness of the intersection against every filling, for tokens of one symbol and of several."""

from itertools import product

import pytest

from fedsim.components.unmasker._emptiness import END, MASKED, Place, completions, has_text, witness
from fedsim.components.unmasker._grammar import read_grammar
from tests.components.unmasker.grammars import GRAMMARS, texts

BRACKETS = GRAMMARS["brackets"]
SIGNS = "()[]"


def found(
    pattern: list[Place], vocabulary: tuple[str, ...] = tuple(SIGNS), *, ends: bool = True, grammar: str = BRACKETS
) -> list[str] | None:
    """The tokens of a text, if any; the quick check says the same."""
    own, automaton = read_grammar(grammar), completions(pattern, set(map(tuple, vocabulary)), ends=ends)
    tokens = witness(own, automaton)
    assert has_text(own, automaton) == (tokens is not None)
    return None if tokens is None else ["".join(token) for token in tokens]


def shown(pattern: str) -> list[Place]:
    return [MASKED if own == "?" else END if own == "." else (own,) for own in pattern]


def fillings(pattern: str, known: set[str], ends: bool) -> set[str]:
    """The texts of the grammar that a pattern can become by tokens of one sign."""
    cut = pattern.partition(".")[0]
    ended = ends or "." in pattern
    lengths = [n for n in range(len(cut) + 1) if n == len(cut) or (ended and set(cut[n:]) <= {"?"})]
    return {own for own in known if len(own) in lengths and all(a in ("?", b) for a, b in zip(cut, own, strict=False))}


@pytest.mark.parametrize("ends", [False, True])
def test_masked_positions_are_decided_as_by_trying_every_filling(ends: bool) -> None:
    known, tried = texts(BRACKETS, 5), 0
    for length in range(6):
        for own in product(SIGNS + "?", repeat=length):
            pattern = "".join(own)
            expected, completion = fillings(pattern, known, ends), found(shown(pattern), ends=ends)
            assert (completion is not None) == bool(expected)
            assert completion is None or "".join(completion) in expected
            tried += 1
    assert tried == sum(5**n for n in range(6))


@pytest.mark.parametrize("ends", [False, True])
def test_ends_among_masked_positions_are_decided_so_too(ends: bool) -> None:
    """Before a written end a masked place may be the end already, wherever else texts may end."""
    known = texts(BRACKETS, 5)
    for own in product("([)?.", repeat=4):
        pattern = "".join(own)
        expected, completion = fillings(pattern, known, ends), found(shown(pattern), ends=ends)
        assert (completion is not None) == bool(expected)
        assert completion is None or "".join(completion) in expected


VOCABULARIES = [
    ("brackets", ("()", "(", "])", "[](", ")")),
    ("nullable", ("b", "bc", "cb", "ccc")),
    ("cyclic", ("xx", "z", "zy", "yy", "xzy")),
    ("json", ("{k:", "1", "[]", "1}", ",k:", "]", "[")),
    ("json", ("{k", "k:", "{", ":1", "}}", "1,", "[1", "]")),
]


@pytest.mark.paper_step("cfg-constrained", "emptiness of the grammar's intersection with the text's completions")
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("name", "vocabulary"), VOCABULARIES)
def test_tokens_of_several_signs_are_decided_as_by_trying_every_token(
    name: str, vocabulary: tuple[str, ...], ends: bool
) -> None:
    """Every pattern of up to three positions, of tokens, masks and the end."""
    known, answers = texts(GRAMMARS[name], 9), {True: 0, False: 0}
    for length in range(4):
        for pattern in product((*vocabulary, "?", "."), repeat=length):
            tokens = found(
                [MASKED if own == "?" else END if own == "." else tuple(own) for own in pattern],
                vocabulary,
                ends=ends,
                grammar=GRAMMARS[name],
            )
            expected = filled(pattern, vocabulary, known, ends)
            assert (tokens is not None) == bool(expected)
            assert tokens is None or tuple(tokens) in expected
            answers[bool(expected)] += 1
    assert min(answers.values()) > 5


def filled(pattern: tuple[str, ...], vocabulary: tuple[str, ...], known: set[str], ends: bool) -> set[tuple[str, ...]]:
    """The token sequences of texts of the grammar that a pattern can become."""
    cut = pattern[: pattern.index(".")] if "." in pattern else pattern
    ended = ends or "." in pattern
    lengths = [n for n in range(len(cut) + 1) if n == len(cut) or (ended and set(cut[n:]) <= {"?"})]
    return {
        tokens
        for length in lengths
        for tokens in product(*(vocabulary if own == "?" else (own,) for own in cut[:length]))
        if "".join(tokens) in known
    }


def test_spellings_share_the_states_of_equal_suffixes() -> None:
    vocabulary = {("a",) * length for length in range(1, 9)}
    automaton = completions([MASKED] * 3, vocabulary, ends=False)
    assert automaton.borders == (0, 8, 16, 24)
    assert len(automaton.edges) == 3 * (8 + 7)
