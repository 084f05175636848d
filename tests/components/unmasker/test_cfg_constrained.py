"""Grammar constraints: every text is valid in whatever order it is written, and nothing is refused without need."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate
from tests.components.generating import make, sources
from tests.components.unmasker.grammars import GRAMMARS, texts
from tests.components.unmasking import Fixed, MaskAmongWords, run, tiny_llada

SIGNS = "()[]a."  # the last one ends a text
END = len(SIGNS) - 1
BRACKETS = 'S = "(" S ")" S | "[" S "]" S | "a" S |'
RANDOM = {"temperature": 1.0, "confidence": "random"}


class Spelling:
    """A tokenizer whose tokens spell some signs each, by default one."""

    padding, begin, end, vocabulary = END, None, END, len(SIGNS)
    ends = frozenset({end})

    def __init__(self, spells: tuple[str, ...] = tuple(SIGNS)) -> None:
        self.spells = spells

    def encode(self, text: str) -> list[int]:
        return [self.spells.index(sign) for sign in text]

    def decode(self, tokens: Any) -> str:
        return "".join(self.spells[token] for token in tokens)


class Moody(nn.Module):
    """Scores that depend on the whole text and on a seed, and have no sense."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table, self.mask_token = torch.randn(40, 7, len(SIGNS), generator=generator), len(SIGNS)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        return 2 * self.table[places, tokens] + self.table[tokens.sum(1) % 40, 0][:, None]


def write(
    model: nn.Module, places: int, count: int = 1, answer: Tensor | None = None, **settings: Any
) -> list[Generated]:
    condition = GenerationInputs(((),) * count, {} if answer is None else {"answer": answer})
    limits = Limits(max_new_tokens=places, stop_tokens=frozenset({END}))
    method = make("cfg-constrained", **{"grammar": BRACKETS, **settings})
    return generate(method, model, condition, limits, sources(count), tokenizer=Spelling())


def shown(own: Generated) -> str:
    return Spelling().decode(own.tokens).partition(".")[0]


def is_valid(text: str) -> bool:
    open_ones: list[str] = []
    for sign in text:
        if sign in "([":
            open_ones.append(sign)
        elif sign in ")]" and (not open_ones or open_ones.pop() + sign not in ("()", "[]")):
            return False
    return not open_ones


def all_valid(count: int) -> None:
    rejected = 0
    for seed in range(count // 20):
        for own in write(Moody(seed), 10, 20, **RANDOM):
            series = own.trace.series()
            assert own.ending in ("stop", "length")
            assert is_valid(shown(own)), shown(own)
            assert sum(series["completed"]) == 0, "exact gaps are never stuck"
            rejected += sum(series["rejected"])
    assert rejected > count  # the control: the model wanted to leave the grammar again and again


@pytest.mark.paper_step("cfg-constrained", "a token is written if text and grammar share a completion")
def test_texts_written_in_random_order_are_all_valid() -> None:
    all_valid(20)


@pytest.mark.paper_step("cfg-constrained", "rejected tokens are ruled out, the next surest is tried")
def test_a_model_that_wants_a_valid_text_is_never_refused() -> None:
    for number, text in enumerate(sorted(texts(GRAMMARS["brackets"], 8))[::7]):
        tokens = Spelling().encode(text.ljust(8, "."))
        scores = 9.0 * nn.functional.one_hot(torch.tensor(tokens), len(SIGNS)).float()
        order = torch.randperm(8, generator=torch.Generator().manual_seed(number))
        (own,) = write(Fixed(scores + 0.1 * order[:, None] * scores), 8)
        assert shown(own) == text
        assert sum(own.trace.series()["rejected"]) == 0


def test_grammars_of_lark_are_read_too() -> None:
    pytest.importorskip("lark")
    grammar = 'start: "(" start ")" start | "[" start "]" start | "a" start |'
    for seed in range(5):
        (own,) = write(Moody(seed), 6, grammar=grammar, notation="lark")
        assert own.tokens == write(Moody(seed), 6)[0].tokens


def test_several_places_a_step_are_checked_one_after_the_other() -> None:
    # Each of the two places may be either sign, both together only in one way.
    scores = torch.tensor([[0.0, 0, 6, 0, 0, -9], [0.0, 5, 0, 0, 0, -9]])
    (own,) = write(Fixed(scores), 2, positions_per_step=2, grammar='S = "(" ")" | "[" "]"')
    assert (shown(own), own.trace.tokens) == ("[]", (2,))


def test_what_is_given_is_completed_around() -> None:
    answer = torch.full((1, 6), len(SIGNS))
    answer[0, [1, 4]] = torch.tensor([SIGNS.index("["), SIGNS.index(")")])
    for seed in range(10):
        (own,) = write(Moody(seed), 6, answer=answer, **RANDOM)
        text = Spelling().decode(own.tokens)
        assert (text[1], text[4]) == ("[", ")")
        assert is_valid(shown(own))


@pytest.mark.paper_step("cfg-constrained", "completion by the grammar behind too many rejections")
def test_behind_too_many_rejections_the_grammar_completes_the_text() -> None:
    found = [write(Moody(seed), 10, rejections=1, **RANDOM)[0] for seed in range(10)]
    assert all(is_valid(shown(own)) for own in found)
    assert any(sum(own.trace.series()["completed"]) for own in found)


SPELLINGS = [
    (BRACKETS, ("()", ")", "[", "]", "a", ".")),
    ('S = "(" S ")" S |', tuple(SIGNS)),
    (GRAMMARS["nullable"], ("b", "bc", "c", "cc", "a", ".")),
    (GRAMMARS["cyclic"], ("x", "y", "z", "xz", "yy", ".")),
    (GRAMMARS["json"], ("{", "k:", "1", "[]", "}", ".")),
    (GRAMMARS["json"], ("{k", ":1", "}", "1,", "[1", ".")),
]


def spelled_texts(spelling: Spelling, grammar: str, seed: int, rows: int, **settings: Any) -> list[Generated]:
    limits = Limits(max_new_tokens=4, stop_tokens=frozenset({END}))
    method = make("cfg-constrained", **{"grammar": grammar, **RANDOM, **settings})
    inputs = GenerationInputs(((),) * rows)
    return generate(method, Moody(seed), inputs, limits, sources(rows), tokenizer=spelling)


def all_of_the_grammar(grammar: str, spells: tuple[str, ...], runs: int, **settings: Any) -> Counter[str]:
    """Write `runs` times four texts, check that each is a text of the grammar, and count how they ended."""
    spelling, endings = Spelling(spells), Counter[str]()
    known = texts(grammar, 8)  # four tokens of two signs at most
    reachable = {"".join(own) for n in range(5) for own in product(spells[:END], repeat=n)} & known
    for seed in range(runs):
        for text in spelled_texts(spelling, grammar, seed, 4, **settings):
            endings[text.ending] += 1
            if text.ending != "failed":
                assert spelling.decode(text.tokens).partition(".")[0] in reachable
    assert bool(reachable) == (endings["failed"] == 0), "a text fails only where no tokens spell a text, at the start"
    return endings


@pytest.mark.parametrize(("grammar", "spells"), SPELLINGS)
def test_tokens_of_several_signs_never_leave_the_grammar_and_no_text_fails(
    grammar: str, spells: tuple[str, ...]
) -> None:
    for settings in ({}, {"positions_per_step": 2}, {"rejections": 1}, {"block": 2}):
        assert all_of_the_grammar(grammar, spells, 2, **settings)["failed"] == 0


def test_a_token_of_two_signs_is_written_where_no_other_closes_what_is_open() -> None:
    spelling = Spelling(("(", "))", "[", "]", "a", "."))
    scores = torch.tensor([5.0, 1, 0, 0, 0, -9]).expand(3, -1)
    limits = Limits(max_new_tokens=3, stop_tokens=frozenset({END}))
    method = make("cfg-constrained", grammar='S = "(" S ")" |')
    (own,) = generate(method, Fixed(scores), GenerationInputs(((),)), limits, sources(1), tokenizer=spelling)
    assert spelling.decode(own.tokens) == "((" + "))"


def test_a_grammar_that_no_answer_can_belong_to_is_refused_before_any_step() -> None:
    (own,) = write(Moody(0), 3, grammar='S = "(" "(" ")" ")"')
    assert (own.ending, own.trace.tokens) == ("failed", ())
    assert "the grammar has no text that agrees with the answer" in own.reason
    with pytest.raises(FedsimError, match="none of its signs is a token of the model"):
        run("cfg-constrained", Moody(0), [[]], 3, grammar='S = "x"')


def test_signs_and_ends_numbered_behind_the_mask_token_are_written_too() -> None:
    model = MaskAmongWords(tiny_llada(12), 6)  # words 0 to 5 and 7 to 12
    limits = Limits(max_new_tokens=6, stop_tokens=frozenset({9, 11}))
    method = make("cfg-constrained", grammar="S = 8 S | 8")
    (text,) = generate(method, model, GenerationInputs(((1, 2),)), limits, sources(1))
    signs = [token for token in text.tokens if token == 8]
    assert signs, "the grammar has no empty text"
    assert text.tokens[: len(signs)] == tuple(signs)
    assert set(text.tokens[len(signs) :]) <= {9, 11}
    answer = torch.tensor([[8, 6, 6, 6, 6, 11]])
    (text,) = generate(method, model, GenerationInputs(((1, 2),), {"answer": answer}), limits, sources(1))
    assert text.ending in ("stop", "length")
    assert text.tokens[0] == 8
