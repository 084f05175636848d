"""Sure spans: null settings are greedy, what is accepted, what a past holds, and a language that a model learns."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.hooks import GenerationContext, TextState
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import greedy, make, prompts, sources, tiny_llama
from tests.components.loss.padding import padded

ASKED = prompts([1, 2, 3], [4], [5, 6], [7, 8, 9, 10])
LIMITS = Limits(max_new_tokens=12)


class Table(nn.Module):
    """Scores by the last token alone; behind a pad, by the token in front of the pads and the number of pads."""

    def __init__(self, pad: int, table: dict[tuple[int, int], dict[int, float]]) -> None:
        super().__init__()
        self.pad, self.table = pad, table

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([torch.stack([self._behind(row[: end + 1]) for end in range(len(row))]) for row in tokens])

    def _behind(self, text: Tensor) -> Tensor:
        own = text.tolist()
        pads = next((count for count, token in enumerate(reversed(own)) if token != self.pad), len(own))
        known = self.table.get((own[-1 - pads] if pads < len(own) else -1, pads), {})
        rest = (1 - sum(known.values())) / (8 - len(known))
        return torch.tensor([known.get(token, rest) for token in range(8)]).double().log()


def written(table: dict[tuple[int, int], dict[int, float]], tokenizer: Any = None, **settings: Any) -> Any:
    method = make("sure-spans", pad=7, **settings)
    (found,) = generate(
        method, Table(7, table), prompts([0]), Limits(max_new_tokens=4), sources(1), tokenizer=tokenizer
    )
    return found


@pytest.mark.paper_step("sure-spans", "without confidence it is decoding token by token")
@pytest.mark.parametrize("settings", [{"beta": 1.1}, {"pads": 0}])
def test_where_nothing_is_accepted_it_is_greedy(settings: dict[str, Any]) -> None:
    texts = generate(make("sure-spans", **settings), padded(), ASKED, LIMITS, sources(4))
    assert [list(text.tokens) for text in texts] == greedy(tiny_llama(), ASKED.prompts, 12)
    assert {text.trace.tokens for text in texts} == {(1,) * 12}


@pytest.mark.paper_step("sure-spans", "pads predict followers, the sure prefix is written")
def test_followers_are_a_prefix_of_those_the_model_is_sure_of() -> None:
    table = {(0, 0): {1: 0.5}, (0, 1): {2: 0.95}, (0, 2): {3: 0.89}, (0, 3): {4: 0.99}}
    assert written(table).tokens[:2] == (1, 2)
    assert written(table).trace.tokens[0] == 2, "0.89 is too little, and what is behind it counts no more"
    assert written(table, beta=0.85).trace.tokens[0] == 4
    assert written(table, beta=0.85, pads=2).trace.tokens[0] == 3
    # 0.89^2 = 0.79 and 0.99^3 = 0.97, or 0.95 * 0.89 = 0.85 and * 0.99 = 0.84
    assert written(table, beta=0.8, rule="root").trace.tokens[0] == 2
    assert written(table, beta=0.79, rule="root").trace.tokens[0] == 4
    assert written(table, beta=0.84, rule="product").trace.tokens[0] == 3
    assert written(table, beta=0.83, rule="product").trace.tokens[0] == 4
    assert written(table, beta=0.85).trace.series()["proposed"][0] == 3


class Words:
    vocabulary, padding, begin, end = 8, 0, None, 0
    ends = frozenset({end})

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join([" the", " ", "a", " an", "b", " bc", " b", "x"][token] for token in tokens)


def test_a_span_ends_in_front_of_what_repeats_or_extends_the_token_before() -> None:
    sure = 0.99
    same = {(0, 0): {1: sure}, (0, 1): {2: sure}, (0, 2): {2: sure}, (0, 3): {4: sure}}
    assert written(same).trace.tokens[0] == 2
    longer = {(0, 0): {1: sure}, (0, 1): {2: sure}, (0, 2): {3: sure}, (0, 3): {4: sure}}
    assert written(longer).trace.tokens[0] == 4, "without a tokenizer nobody sees that ' an' begins with 'a'"
    assert written(longer, Words()).trace.tokens[0] == 2
    assert written({**longer, (0, 2): {4: sure}, (0, 3): {1: sure}}, Words()).trace.tokens[0] == 4, "a blank is no text"
    again = {(0, 0): {1: sure}, (0, 1): {0: sure}, (0, 2): {1: sure}, (0, 3): {0: sure}}
    assert written(again).trace.tokens[0] == 4
    assert written(again, ngram=2).trace.tokens[0] == 2


def test_the_first_token_may_be_drawn_and_is_always_taken() -> None:
    table = {(0, 0): {1: 0.3, 2: 0.3}, (0, 1): {3: 0.99}}
    method = make("sure-spans", pad=7, temperature=1.0)
    texts = generate(method, Table(7, table), prompts(*[[0]] * 40), Limits(max_new_tokens=2), sources(40))
    assert {text.tokens[0] for text in texts} > {1, 2}
    assert {text.tokens[1] for text in texts if text.tokens[0] != 3} == {3}


def test_what_was_read_of_pads_is_forgotten() -> None:
    model, method = padded(), make("sure-spans", beta=0.0)
    context = GenerationContext(tuple(sources(4)), LIMITS)
    state = method.start(model, ASKED, context)
    with torch.no_grad():
        for _ in range(4):
            state, events = method.step(model, state, context)
            kept = state.past.scores(model, state.tokens)
            fresh = DecodingCache().scores(model, state.tokens)
            for own, other in zip(kept, fresh, strict=True):
                torch.testing.assert_close(own, other, rtol=0, atol=1e-9)  # rounding of doubles
            assert state.past.key_counts == [list(map(len, state.tokens))] * 2
            assert all(0 <= event["accepted"] <= event["proposed"] for event in events)
    assert isinstance(state, TextState)


def test_texts_end_at_a_stop_token_and_at_the_end_of_the_context_in_the_middle_of_a_span() -> None:
    sure = {(0, 0): {1: 0.9}, (0, 1): {2: 0.99}, (0, 2): {3: 0.99}, (0, 3): {4: 0.99}}
    method, model = make("sure-spans", pad=7), Table(7, sure)
    (stopped,) = generate(method, model, prompts([0]), Limits(max_new_tokens=9, stop_tokens=frozenset({2})), sources(1))
    assert (stopped.tokens, stopped.ending) == ((1, 2), "stop")
    (full,) = generate(method, model, prompts([0]), Limits(max_new_tokens=9, context=3), sources(1))
    assert (full.tokens, full.ending) == ((1, 2), "context")
    assert full.trace.series()["proposed"] == (1,), "one pad fits beside the token of the step"
