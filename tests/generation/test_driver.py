"""The driver: who ends when and why, pieces as they are made, what is read inside the model, mistakes of authors."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext, GenerationInputs, MaskedTextState, Unmasker
from fedsim.core.types import Config, Event, Limits
from fedsim.generation import generate, stream
from tests.components.generating import (
    LEAKING,
    Breaking,
    make,
    prompts,
    sources,
    tiny_llama,
)
from tests.components.unmasking import tiny_llada

FIVE = Limits(max_new_tokens=5)

ASKED = prompts([1, 2, 3], [LEAKING], [4, 5])


def test_prompts_that_cannot_begin_say_why_and_the_others_go_on() -> None:
    asked = prompts([1, 2, 3], [], [1] * 8, [4, 5])
    texts = generate(make("greedy"), tiny_llama(), asked, Limits(max_new_tokens=5, context=8), sources(4))
    assert [text.ending for text in texts] == ["length", "failed", "failed", "length"]
    assert texts[1].reason.startswith("prompt 1 is empty, and generation needs at least 1 token")
    assert (
        "prompt 2 has 8 tokens, and the model's context is 8 tokens, generated tokens included. Shorten"
        in texts[2].reason
    )
    assert [text.tokens for text in texts[1:3]] == [(), ()]
    alone = generate(make("greedy"), tiny_llama(), asked.keep([3]), FIVE, sources(1))
    assert alone[0] == texts[3]


def test_no_tokens_asked_for_are_no_step() -> None:
    (found,) = generate(make("greedy"), tiny_llama(), prompts([1]), Limits(max_new_tokens=0), sources(1))
    assert (found.ending, found.tokens, found.trace.events) == ("length", (), ())


def test_pieces_come_before_the_next_step_is_taken() -> None:
    model = Breaking(tiny_llama(), token=0, length=1)
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    pieces = stream(make("greedy"), model, ASKED, Limits(max_new_tokens=3), sources(3))
    assert [(next(pieces).row, len(calls)) for _ in range(3)] == [(0, 1), (1, 1), (2, 1)]
    assert torch.is_grad_enabled()
    assert model.training
    rest = [(piece.row, piece.result is not None) for piece in pieces]
    assert rest == [(row, is_last) for is_last in (False, False, True) for row in range(3)]
    assert len(calls) == 3


def test_a_stream_is_what_generate_collects() -> None:
    pieces = list(stream(make("toy-leaky"), tiny_llama(), ASKED, FIVE, sources(3)))
    texts = generate(make("toy-leaky"), tiny_llama(), ASKED, FIVE, sources(3))
    assert {piece.row: piece.result for piece in pieces if piece.result} == dict(enumerate(texts))
    assert [piece.row for piece in pieces][:3] == [0, 1, 2]
    assert texts[1].trace.tokens == (2, 2, 1)


def test_rows_share_no_generator_and_cuts_are_modules() -> None:
    model, source = tiny_llama(), torch.Generator()
    for wrong in ([source] * 3, sources(2), sources(4)):
        with pytest.raises(
            FedsimError, match="3 rows were requested with . generators: pass a separate generator for each row"
        ):
            generate(make("greedy"), model, ASKED, FIVE, wrong)
    with pytest.raises(FedsimError, match=r"cuts: the model has no module 'layer.0'. Did you mean 'layers.0'"):
        stream(make("greedy"), model, ASKED, FIVE, sources(3), cuts=["layer.0"])


class Meddling(Unmasker[Config, MaskedTextState]):
    """Fills in one place a step, and then breaks a promise."""

    counts = frozenset[str]()
    how = ""

    def start(self, model: nn.Module, condition: GenerationInputs, context: GenerationContext) -> MaskedTextState:
        return self.begin(model, condition, context)

    def step(
        self, model: nn.Module, state: MaskedTextState, context: GenerationContext
    ) -> tuple[MaskedTextState, list[Event]]:
        after = state.write_tokens([{own[0]: 5} for own in state.masked_positions])
        tokens, masked = list(after.tokens[0]), after.masked_positions[0]
        if self.how == "changes the prompt":
            tokens[0] += 1
        if self.how == "masks anew":
            masked = (1, *masked)
        return replace(after, tokens=(tuple(tokens),), masked_positions=(masked,)), [Event()]


@pytest.mark.parametrize("how", ["changes the prompt", "masks anew"])
def test_a_step_that_changes_what_is_written_is_named(how: str) -> None:
    method = Meddling(Config()).with_name("meddling")
    method.how = how
    with pytest.raises(FedsimError, match="'meddling' changed an unmasked position, or masked it again"):
        generate(method, tiny_llada(), prompts([1, 2]), Limits(max_new_tokens=3), sources(1))


def test_a_filled_text_ends_at_a_stop_token_with_nothing_masked_before_it() -> None:
    limits = Limits(max_new_tokens=4, stop_tokens=frozenset({5}))
    (own,) = generate(Meddling(Config()), tiny_llada(), prompts([1, 2]), limits, sources(1))
    assert (own.ending, own.tokens, own.trace.places) == ("stop", (5,), ((0,),))
    condition = GenerationInputs(((1, 2),), {"answer": torch.tensor([[9, 9, 6, 9]])})
    behind = Limits(max_new_tokens=4, stop_tokens=frozenset({6}))
    (late,) = generate(Meddling(Config()), tiny_llada(), condition, behind, sources(1))
    assert (late.ending, late.tokens, late.trace.places) == ("stop", (5, 5, 6), ((0,), (1,)))
    (whole,) = generate(Meddling(Config()), tiny_llada(), condition, Limits(max_new_tokens=4), sources(1))
    assert (whole.ending, whole.tokens, whole.trace.places) == ("length", (5, 5, 6, 5), ((0,), (1,), (3,)))


def test_an_answer_that_stands_already_takes_no_step_and_an_empty_prompt_is_none_too_few() -> None:
    condition = GenerationInputs(((), ()), {"answer": torch.tensor([[1, 2, 3], [9, 9, 1]])})
    texts = generate(Meddling(Config()), tiny_llada(), condition.keep([0]), Limits(max_new_tokens=3), sources(1))
    assert (texts[0].ending, texts[0].tokens, texts[0].trace.tokens) == ("finished", (1, 2, 3), ())
    (other,) = generate(Meddling(Config()), tiny_llada(), condition.keep([1]), Limits(max_new_tokens=3), sources(1))
    assert other.tokens == (5, 5, 1)


def test_answers_of_another_length_are_named() -> None:
    condition = GenerationInputs(((1,),), {"answer": torch.tensor([[9, 9]])})
    with pytest.raises(FedsimError, match=r"given\['answer'\] has shape \(1, 2\), expected \(1, 3\)"):
        generate(Meddling(Config()), tiny_llada(), condition, Limits(max_new_tokens=3), sources(1))
