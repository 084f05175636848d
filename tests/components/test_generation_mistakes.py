"""Bad input of every decoder: one clear sentence, what was written so far, and the other rows as if nothing were."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.pads import add_pad, embedding_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import GenerationContext, GenerationInputs
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, Breaking, greedy, make, names, prompts, sources, tiny_llama
from tests.components.unmasking import Broken, tiny_llada

DECODERS = names("decoder", "text")
CONTEXT = 9
LIMITS = Limits(max_new_tokens=20, context=CONTEXT)
FINE = [1, 2, 3]


class Bounded(nn.Module):
    """A language model that breaks where it is shown a place behind its context."""

    def __init__(self, own: nn.Module, context: int) -> None:
        super().__init__()
        self.own, self.context = own, context

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] <= self.context, "read beyond the context"
        return self.own(tokens)

    def stack(self) -> Any:
        return BoundedLayers(self)


class BoundedLayers:
    def __init__(self, model: Bounded) -> None:
        self._own, self._context = stack_of(model.own), model.context
        assert self._own is not None
        self.depth, self.embed, self.layer, self.score = (
            self._own.depth,
            self._own.embed,
            self._own.layer,
            self._own.score,
        )

    def place(self, hidden: Tensor, positions: Tensor) -> Any:
        assert int(positions.max()) < self._context, "read beyond the context"
        assert self._own is not None
        return self._own.place(hidden, positions)


class Spoiled(nn.Module):
    """A language model of which one token's score is no number, from some length on, for texts that begin with 4."""

    def __init__(self, own: nn.Module, length: int, value: float) -> None:
        super().__init__()
        self.own, self.length, self.value = own, length, value

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.own(tokens).clone()
        scores[tokens[:, 0] == 4, self.length - 1 :, 5] = self.value
        return scores


def written(name: str, model: nn.Module, condition: GenerationInputs, limits: Limits = LIMITS) -> list[Generated]:
    return generate(make(name), model, condition, limits, sources(len(condition)))


@cache
def without_the_wrong_one(name: str) -> tuple[tuple[int, ...], ...]:
    """What is written behind the first and the last of three prompts, with their random numbers."""
    texts = generate(make(name), tiny_llama(), prompts(FINE, [6]), LIMITS, [sources(3)[place] for place in (0, 2)])
    return tuple(text.tokens for text in texts)


def runs_whole_models(name: str) -> bool:
    """Say whether a decoder takes a model whose layers are not known; the contract of decoders covers the others."""
    try:
        written(name, Spoiled(tiny_llama(), 99, torch.nan), prompts(FINE), Limits(max_new_tokens=1))
    except FedsimError as error:
        if "runs single layers" not in str(error):
            raise
        return False
    return True


def has_a_temperature(name: str) -> bool:
    """Say whether a decoder draws, or not, as it is told; toys are told nothing."""
    methods = registry.methods("component")
    return name in methods and "temperature" in methods[name].config.model_fields


def repeats_the_model(name: str) -> bool:
    """Say whether a decoder writes what the model would write, without a draw."""
    method = make(name)
    return method.exact and not method.config.temperature


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([], "prompt 1 is empty, and generation needs at least 1 token"),
        ([5] * CONTEXT, f"prompt 1 has {CONTEXT} tokens, and the model's context is {CONTEXT} tokens"),
        ([5] * 4 * CONTEXT, f"prompt 1 has {4 * CONTEXT} tokens, and the model's context is {CONTEXT} tokens"),
        ([5, VOCABULARY], f"prompt 1 holds token {VOCABULARY}, and the model's tokens are 0 to {VOCABULARY - 1}"),
        ([-1, 5], "prompt 1 holds token -1"),
    ],
)
def test_a_prompt_that_cannot_begin_fails_alone(name: str, prompt: Sequence[int], reason: str) -> None:
    first, wrong, last = written(name, tiny_llama(), prompts(FINE, prompt, [6]))
    assert wrong.ending == "failed"
    assert wrong.reason.startswith(reason)
    assert wrong.reason.endswith(".")
    assert (wrong.tokens, wrong.trace.tokens) == ((), ())
    assert (first.tokens, last.tokens) == without_the_wrong_one(name)


@pytest.mark.parametrize("name", DECODERS)
def test_a_model_that_fills_in_masked_places_is_refused(name: str) -> None:
    with pytest.raises(
        FedsimError, match=f"'{name}' writes from left to right, and the model TinyLlada fills in .*'fixed'"
    ):
        written(name, tiny_llada(VOCABULARY), prompts(FINE))


@pytest.mark.parametrize("name", DECODERS)
def test_nobody_reads_beyond_the_context(name: str) -> None:
    model = tiny_llama()
    for count in range(1, CONTEXT):
        prompt = [1 + place % 5 for place in range(count)]
        (own,) = written(name, Bounded(model, CONTEXT), prompts(prompt))
        assert own.ending == "context"
        assert len(own.tokens) == CONTEXT - count
        method = make(name)
        if method.exact and method.config.temperature == 0:
            assert [list(own.tokens)] == greedy(model, [prompt], CONTEXT - count)


@pytest.mark.parametrize("name", DECODERS)
def test_a_context_of_one_more_token_than_the_prompt_is_enough(name: str) -> None:
    limits = Limits(max_new_tokens=20, context=len(FINE) + 1)
    (own,) = written(name, Bounded(tiny_llama(), len(FINE) + 1), prompts(FINE), limits)
    assert (own.ending, len(own.tokens)) == ("context", 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [name for name in DECODERS if runs_whole_models(name)])
def test_one_score_that_is_no_number_ends_the_text_and_what_was_written_goes_on_elsewhere(
    name: str, value: float
) -> None:
    limits, asked = Limits(max_new_tokens=6), prompts(FINE, [4, 5])
    fine, broken = written(name, Spoiled(tiny_llama(), 4, value), asked, limits)
    healthy = written(name, Spoiled(tiny_llama(), 99, value), asked, limits)
    assert broken.ending == "failed"
    assert "scores of the next token are not finite" in broken.reason
    assert broken.tokens == healthy[1].tokens[: len(broken.tokens)]
    assert sum(broken.trace.tokens) == len(broken.tokens) <= 2
    assert fine == healthy[0]


def steps(method: Any, model: Any, breaks: Sequence[int]) -> tuple[list[Any], int]:
    """States of a text, and how many steps failed; some are taken once more with scores that are no numbers."""
    (source,) = sources(1)
    context, failed = GenerationContext((source,), Limits(max_new_tokens=24, context=60)), 0
    states = [method.start(model, prompts([4, 5]), context)]
    for number in range(6):
        if number in breaks:
            before, model.token = source.get_state(), 4
            try:
                method.step(model, states[-1], context)
            except GenerationError:
                failed += 1
            source.set_state(before)
            model.token = -1
        states.append(method.step(model, states[-1], context)[0])
    return states, failed


@torch.no_grad()
@pytest.mark.parametrize("name", [*DECODERS, *names("unmasker")])
def test_a_step_that_fails_leaves_text_and_what_was_read_as_they_were(name: str) -> None:
    def model() -> Any:
        if name in DECODERS:
            return Breaking(tiny_llama().eval(), -1, 1)
        return Broken(tiny_llada(12, length=30), -1, torch.nan)

    healthy, _ = steps(make(name), model(), ())
    mended, failed = steps(make(name), model(), (0, 2, 4))
    assert failed  # LoRA-Drop between anchors and Window-Diffusion between full passes do not read what is broken
    assert [own.tokens for own in mended] == [own.tokens for own in healthy]


@pytest.mark.parametrize("name", [name for name in DECODERS if has_a_temperature(name)])
def test_options_of_draws_at_temperature_0_are_refused(name: str) -> None:
    config = registry.get("component", name).config
    options = {"temperature": 0, "top_p": 0.9} if "top_p" in config.model_fields else {"temperature": 0}
    with pytest.raises(ValueError, match="at temperature 0 nothing is drawn|greater than 0"):
        make(name, **options)


@pytest.mark.parametrize("name", [name for name in DECODERS if repeats_the_model(name)])
def test_a_new_generation_goes_on_from_what_was_written(name: str) -> None:
    method, limits = make(name), Limits(max_new_tokens=3)
    (first,) = generate(method, tiny_llama(), prompts(FINE), limits, sources(1))
    (second,) = generate(method, tiny_llama(), prompts([*FINE, *first.tokens]), limits, sources(1))
    assert [[*first.tokens, *second.tokens]] == greedy(tiny_llama(), [FINE], 6)


def test_a_pad_is_no_token_of_a_prompt() -> None:
    model = tiny_llama()
    embedding = embedding_of(model)
    assert embedding is not None
    add_pad(embedding)
    (own,) = written("greedy", model, prompts([1, VOCABULARY]))
    assert own.reason.startswith(f"prompt 0 holds token {VOCABULARY}")
    method = make("sure-spans", pad=VOCABULARY + 1)
    with pytest.raises(Exception, match=f"pad is {VOCABULARY + 1}, and the model's tokens end at {VOCABULARY}"):
        generate(method, model, prompts(FINE), LIMITS, sources(1))
