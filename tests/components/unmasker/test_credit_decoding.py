"""CreditDecoding: its limits, the credit of fixed odds in closed form, sparse slots, the gain that crosses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.hooks import GenerationContext
from fedsim.core.types import Limits
from tests.components.generating import make, prompts, sources
from tests.components.unmasking import run, tiny_llada

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 0]]


def credits(odds: list[list[float]], **settings: Any) -> list[Tensor]:
    """The credit after each step of one place with these odds, one list a step."""
    method, credit, found = make("credit-decoding", **settings), torch.zeros(1, len(odds[0])), list[Tensor]()
    for own in odds:
        credit = method.update_credit(credit, torch.tensor([own]).log(), [0], 0.0)
        found.append(credit[0])
    return found


def fused(odds: list[float], credit: Tensor, **settings: Any) -> Tensor:
    return make("credit-decoding", **settings).add_bonus(torch.tensor([odds]).log(), credit[None], 0.0)[0].softmax(-1)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_without_a_bonus_it_is_the_plain_threshold(threshold: float) -> None:
    plain = run("threshold", tiny_llada(std=0.7), PROMPTS, 8, block=4, threshold=threshold)
    own = run("credit-decoding", tiny_llada(std=0.7), PROMPTS, 8, block=4, threshold=threshold, alpha=0)
    assert [(one.tokens, one.trace) for one in own] == [(one.tokens, one.trace) for one in plain]


@pytest.mark.paper_step("credit-decoding", "credit decays and grows at the likeliest token")
def test_fixed_odds_earn_a_geometric_series_and_the_confidence_rises() -> None:
    odds, sure = [0.6, 0.3, 0.1], list[float]()
    for step, credit in enumerate(credits([odds] * 5), 1):
        closed = 0.6**0.2 * (1 - 0.7**step) / (1 - 0.7)
        torch.testing.assert_close(credit, torch.tensor([closed, 0, 0]), rtol=0, atol=1e-6)
        weights = torch.tensor([0.6 * (1 + closed) ** 0.65, 0.3, 0.1])  # the normaliser is over all tokens
        q = fused(odds, credit).float()
        torch.testing.assert_close(q, weights / weights.sum(), rtol=0, atol=1e-6)
        sure.append(float(q[0]))
    assert sure == sorted(set(sure))


def test_the_bonus_does_not_earn_and_the_likeliest_of_the_model_does() -> None:
    credit = credits([[0.9, 0.05, 0.05]] * 6 + [[0.4, 0.5, 0.1]])[-1]
    assert int(fused([0.4, 0.5, 0.1], credit).argmax()) == 0
    assert float(credit[1]) == pytest.approx(0.5**0.2)


def test_sparse_slots_hold_the_same_credit() -> None:
    generator = torch.Generator().manual_seed(0)
    method, credit, slots = make("credit-decoding"), torch.zeros(1, 50), dict[int, float]()
    for _ in range(20):
        scores = 2 * torch.randn(1, 50, generator=generator)
        credit = method.update_credit(credit, scores, [0], 0.0)
        odds = scores[0].softmax(-1)
        slots = {token: 0.7 * slot for token, slot in slots.items()}
        likeliest = int(odds.argmax())
        slots[likeliest] = slots.get(likeliest, 0.0) + float(odds[likeliest]) ** 0.2
        dense = method.add_bonus(scores, credit, 0.0)[0]
        gained = sum(float(odds[token]) * ((1 + slot) ** 0.65 - 1) for token, slot in slots.items())
        normaliser = float(scores[0].logsumexp(-1)) + math.log1p(gained)
        assert float(dense.logsumexp(-1)) == pytest.approx(normaliser, abs=1e-5)
        for token, slot in slots.items():
            sparse = float(scores[0, token]) + 0.65 * math.log1p(slot) - normaliser
            assert float(dense.log_softmax(-1)[token]) == pytest.approx(sparse, abs=1e-5)


@pytest.mark.paper_step("credit-decoding", "bonus on the scores")
@pytest.mark.parametrize("tau", [0.8, 0.9, 0.95, 0.99])
def test_a_token_crosses_exactly_where_its_gain_allows(tau: float) -> None:
    crossed = list[bool]()
    grid = [0.5 + 0.005 * step for step in (*range(0, 70, 7), *range(70, 85), *range(85, 100, 3))]
    for p in grid:
        constant = p**0.2 / (1 - 0.7)
        q = fused([p, 1 - p], torch.tensor([constant, 0.0]))[0]
        allowed = (1 + constant) ** 0.65 >= tau / (1 - tau) * (1 - p) / p
        assert (float(q) >= tau) == allowed
        crossed.append(allowed)
    assert crossed == sorted(crossed)
    if tau == 0.95:
        assert grid[crossed.index(True)] == pytest.approx(0.885)  # about 0.88 with the published constants


@pytest.mark.paper_step("credit-decoding", "settings that follow the block's written share")
@torch.no_grad()
def test_tuning_free_begins_each_block_without_a_bonus_and_credit_ends_with_its_block() -> None:
    method, model = make("credit-decoding", form="tuning-free", block=4, threshold=1.5), tiny_llada()
    context = GenerationContext(tuple(sources(1)), Limits(max_new_tokens=8))
    state = method.start(model, prompts([1, 2, 3]), context)
    for step in range(8):
        if step == 4:  # poison what the first block left
            (old,) = state.credit
            state = type(state)(state.tokens, state.begins, state.masked_positions, (old + 100,), state.block)
        (scores,) = method.place_scores(model, state)
        after, (own,) = method.proposals([scores], state, context.generators)
        if step % 4 == 0:
            places = list(own.places)
            torch.testing.assert_close(own.confidence, scores[places].softmax(-1).amax(-1), rtol=0, atol=1e-12)
            assert float(after.credit[0].max()) <= 1
        state = after.write_tokens([own.select_tokens(method.choose(own.confidence, after, 0))])
    assert state.masked_positions == ((),)
