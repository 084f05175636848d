"""The loop: steps of rows that end at different times, and mistakes of authors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import Decoder, GenerationContext, GenerationInputs, TextState
from fedsim.core.types import Config, Event, Limits
from fedsim.generation import generate, loop
from fedsim.generation.loop import cut
from tests.components.generating import (
    LEAKING,
    make,
    prompts,
    sources,
    tiny_llama,
)

FIVE = Limits(max_new_tokens=5)
ASKED = prompts([1, 2, 3], [LEAKING], [4, 5])


def test_the_context_ends_a_text_in_the_middle_of_a_step() -> None:
    (found,) = generate(
        make("toy-leaky"), tiny_llama(), prompts([LEAKING, 1]), Limits(max_new_tokens=9, context=5), sources(1)
    )
    assert (found.ending, len(found.tokens), found.trace.tokens) == ("context", 3, (2, 1))
    assert found.trace.series() == {"drawn": (2, 2), "trials": (1, 1)}


def test_seconds_stand_beside_the_trace_and_are_not_compared() -> None:
    first, second = (generate(make("sampled"), tiny_llama(), ASKED, FIVE, sources(3)) for _ in range(2))
    assert first == second
    assert [own.seconds for own in first] != [own.seconds for own in second]
    assert all(second > 0 for own in first for second in own.seconds)


class OwnConfig(Config):
    """What a test changes."""

    fails: str = ""


@dataclass(frozen=True)
class Noted(TextState):
    """A state with a field of no known kind."""

    note: Any = None


class Odd(Decoder[OwnConfig, Noted]):
    """A decoder with one mistake."""

    counts: ClassVar[frozenset[str]] = frozenset({"accepted"})

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Noted:
        if self.config.fails == "start":
            raise GenerationError("no text fits the constraint.", [0])
        return Noted(condition.prompts, note=object() if self.config.fails == "note" else (0,) * len(condition))

    def step(self, model: nn.Module, state: Noted, context: GenerationContext) -> tuple[Noted, Sequence[Event]]:
        drawn = [[int(torch.randint(9, (1,), generator=generator))] for generator in context.generators]
        if self.config.fails == "step" and any(token[0] == LEAKING and len(token) > 2 for token in state.tokens):
            raise GenerationError(
                "a dead end.", [place for place, token in enumerate(state.tokens) if token[0] == LEAKING]
            )
        if self.config.fails == "all":
            raise GenerationError("the budget is spent.", [])
        events = [Event(acepted=1) if self.config.fails == "name" else Event(accepted=1)] * len(state)
        return state.append_tokens(drawn), events[1:] if self.config.fails == "events" else events


def odd(fails: str) -> Odd:
    return Odd(OwnConfig(fails=fails)).with_name("odd")


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("name", r"an event of 'odd' counts acepted, but its class says counts = \{accepted\}. Make the two agree"),
        ("events", "'odd' returned events of 2 rows, expected 3, the rows of its input state"),
        ("note", "the field 'note' of a generation's state is a object, which cannot be indexed by row"),
    ],
)
def test_mistakes_of_an_author_are_named(fails: str, message: str) -> None:
    limits = Limits(max_new_tokens=5, context=7)  # rows end at different times
    with pytest.raises(FedsimError, match=message):
        generate(odd(fails), tiny_llama(), prompts([1, 2, 3], [4], [5, 6]), limits, sources(3))


def test_a_row_with_no_way_on_ends_with_its_text_and_the_others_as_if_it_had_not_been_there() -> None:
    plain = generate(odd(""), tiny_llama(), ASKED, FIVE, sources(3))
    stuck = generate(odd("step"), tiny_llama(), ASKED, FIVE, sources(3))
    assert (stuck[1].ending, stuck[1].reason, stuck[1].tokens) == ("failed", "a dead end.", plain[1].tokens[:2])
    assert [stuck[0], stuck[2]] == [plain[0], plain[2]]
    late = generate(odd("start"), tiny_llama(), ASKED, FIVE, sources(3))
    assert [own.reason for own in late] == [
        "no text fits the constraint."
    ] * 3  # asked again, it refuses the next first
    spent = generate(odd("all"), tiny_llama(), ASKED, FIVE, sources(3))
    assert [(own.ending, own.reason, own.tokens) for own in spent] == [("failed", "the budget is spent.", ())] * 3


class ReadsAhead(Odd):
    """Reads the prompt before its first step, and one token in every step."""

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> Noted:
        for prompt in condition.prompts:
            model(torch.tensor([prompt]))
        return super().start(model, condition, context)

    def step(self, model: nn.Module, state: Noted, context: GenerationContext) -> tuple[Noted, Sequence[Event]]:
        model(torch.tensor([token[-1:] for token in state.tokens]))
        return super().step(model, state, context)


def test_what_the_start_takes_and_reads_is_counted_once_and_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """A second for every look at it."""

        def __init__(self) -> None:
            self.now = 0.0

        def perf_counter(self) -> float:
            self.now += 1.0
            return self.now

    monkeypatch.setattr(loop, "time", Clock())
    method = ReadsAhead(OwnConfig()).with_name("ahead")
    (own,) = generate(method, tiny_llama(), prompts([1, 2, 3]), Limits(max_new_tokens=3), sources(1), cuts=["layers.0"])
    assert [[tensor.shape for _, tensor in step] for step in own.activations] == [
        [(1, 3, 16), (1, 1, 16)],
        [(1, 1, 16)],
        [(1, 1, 16)],
    ]
    assert own.seconds == (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("new", "written", "length", "limits", "tokens", "ending"),
    [
        ([1, 2], 0, 5, {"max_new_tokens": 5}, (1, 2), None),
        ([1, 2], 3, 5, {"max_new_tokens": 5}, (1, 2), "length"),
        ([1, 2], 4, 5, {"max_new_tokens": 5}, (1,), "length"),
        ([1, 2], 0, 5, {"max_new_tokens": 5, "context": 6}, (1,), "context"),
        ([1, 2], 0, 5, {"max_new_tokens": 5, "context": 7}, (1, 2), "context"),
        ([1, 9, 2], 0, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (1, 9), "stop"),
        ([1, 9, 2], 4, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (1,), "length"),
        ([9], 4, 5, {"max_new_tokens": 5, "stop_tokens": [9]}, (9,), "stop"),
        ([], 0, 5, {"max_new_tokens": 5}, (), None),
    ],
)
def test_a_step_is_cut_where_the_text_ends(
    new: list[int], written: int, length: int, limits: dict, tokens: tuple[int, ...], ending: str | None
) -> None:
    assert cut(new, written, length, Limits(**limits)) == (tokens, ending)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 12), st.integers(4, 14), st.integers(1, 4))
def test_tokens_may_come_one_by_one_or_several_at_once(text: list[int], most: int, context: int, size: int) -> None:
    limits = Limits(max_new_tokens=most, context=context, stop_tokens=frozenset({5}))
    ends = []
    for step in (1, size):
        written, ending = list[int](), None
        for start in range(0, len(text), step):
            tokens, ending = cut(text[start : start + step], len(written), 3 + len(written), limits)
            written += tokens
            if ending:
                break
        ends.append((written, ending))
    assert ends[0] == ends[1]


def test_limits_that_cannot_be_are_refused() -> None:
    for wrong in ({"max_new_tokens": -1}, {"max_new_tokens": 1, "context": 0}, {"max_new": 1}):
        with pytest.raises(ValueError, match="max_new|context"):
            Limits(**wrong)
