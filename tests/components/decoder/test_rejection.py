"""Weighted rejection sampling of one token: weights exact by enumeration of orders, and unbiased by many runs."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fedsim.components.decoder import _rejection
from fedsim.components.decoder._rejection import (
    TokenDraw,
    draw_first,
    draw_geometric,
    draw_recursive,
    draw_two_loops,
    tokens_in_random_order,
)

Draw = Callable[[Tensor, Callable[[int], bool], torch.Generator], TokenDraw]
ODDS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.double)
SIX = torch.tensor([0.31, 0.24, 0.19, 0.13, 0.09, 0.04], dtype=torch.double)
FEW, MANY = 1000, 50_000
SETTINGS: dict[str, Draw] = {
    **{f"recursive {most}": functools.partial(draw_recursive, limit=most) for most in (None, 1, 2, 3)},
    **{
        f"geometric {wanted} {most}": functools.partial(draw_geometric, limit=most, wanted=wanted)
        for wanted in (2, 4)
        for most in (None, 1, 2, 3)
    },
    "two loops": draw_two_loops,
}


def orders(odds: dict[int, float]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every order of drawing without replacement, with its probability."""
    for order in itertools.permutations(odds):
        left, probability = sum(odds.values()), 1.0
        for token in order:
            probability *= odds[token] / left
            left -= odds[token]
        yield order, probability


def in_these_orders(monkeypatch: pytest.MonkeyPatch, *chosen: tuple[int, ...]) -> None:
    """Have the Gumbel noise put all tokens into one order after the other; tokens that are left out come last."""
    noise = iter(chosen)

    def gumbel(size: int, _generator: torch.Generator) -> Tensor:
        order = next(noise)
        keys = torch.tensor([float(-order.index(token)) if token in order else -99.0 for token in range(size)]).double()
        return keys - ODDS.log()

    monkeypatch.setattr(_rejection, "_gumbel", gumbel)


@pytest.mark.parametrize("allowed", [{0}, {3}, {1, 2}, {0, 3}, {1, 2, 3}, {0, 1, 2, 3}, set[int]()])
@pytest.mark.parametrize("most", [None, 1, 2, 3])
def test_the_recursive_weight_is_exact_over_all_orders(
    allowed: set[int], most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = [0.0] * 4
    for order, probability in orders(dict(enumerate(ODDS.tolist()))):
        in_these_orders(monkeypatch, order)
        drawn = draw_recursive(ODDS.log(), allowed.__contains__, torch.Generator(), most)
        if drawn.token is not None:
            means[drawn.token] += probability * math.exp(drawn.log_weight)
    assert means == pytest.approx([own * (token in allowed) for token, own in enumerate(ODDS.tolist())], abs=1e-12)


@pytest.mark.parametrize("allowed", [{0}, {3}, {1, 2}, {0, 3}, {0, 1, 2, 3}])
def test_the_weight_of_two_loops_is_exact_over_all_pairs_of_orders(
    allowed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = [0.0] * 4
    for first, probability in orders(dict(enumerate(ODDS.tolist()))):
        known = list(itertools.takewhile(lambda token: token not in allowed, first))
        left = {token: own for token, own in enumerate(ODDS.tolist()) if token not in known}
        for second, again in orders(left):
            in_these_orders(monkeypatch, first, second)
            drawn = draw_two_loops(ODDS.log(), allowed.__contains__, torch.Generator())
            assert drawn.token is not None
            means[drawn.token] += probability * again * math.exp(drawn.log_weight)
    assert means == pytest.approx([own * (token in allowed) for token, own in enumerate(ODDS.tolist())], abs=1e-12)


def check_weights(draw: Draw, runs: int, seed: int) -> None:
    """The mean of W 1{X = t} is p(t) a(t), within four standard errors for each token."""
    allowed, source = {1, 3, 4}, torch.Generator().manual_seed(seed)
    weights = torch.zeros(runs, 6, dtype=torch.double)
    for run in range(runs):
        asked: list[int] = []

        def accepts(token: int, asked: list[int] = asked) -> bool:
            asked.append(token)
            return token in allowed

        drawn = draw(SIX.log(), accepts, source)
        assert len(asked) == drawn.calls <= 2 * len(SIX)
        refused = [token for token in asked if token not in allowed]
        assert len(refused) == len(set(refused)) == drawn.rejected_calls, "a rejected token is asked once"
        if drawn.token is not None:
            weights[run, drawn.token] = math.exp(drawn.log_weight)
    means, errors = weights.mean(0), weights.std(0) / math.sqrt(runs)
    expected = torch.tensor([own * (token in allowed) for token, own in enumerate(SIX.tolist())], dtype=torch.double)
    assert ((means - expected).abs() <= 4 * errors + 1e-12).all(), (means, expected, errors)


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_unbiased_in_some_runs(name: str) -> None:
    check_weights(SETTINGS[name], FEW, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_unbiased_in_many_runs(name: str) -> None:
    check_weights(SETTINGS[name], MANY, 1)


@pytest.mark.parametrize("name", ["recursive None", "geometric 2 None", "geometric 4 None", "two loops"])
def test_where_everything_is_accepted_the_weight_is_1_and_the_token_follows_the_odds(name: str) -> None:
    source, counts = torch.Generator().manual_seed(0), torch.zeros(4, dtype=torch.double)
    for _ in range(500):
        drawn = SETTINGS[name](ODDS.log(), lambda _token: True, source)
        assert drawn.log_weight == pytest.approx(0, abs=1e-12)
        assert drawn.calls == 2 or name != "recursive None"
        assert drawn.rejected_calls == 0
        counts[drawn.token or 0] += 1
    statistic = float(((counts - 500 * ODDS).square() / (500 * ODDS)).sum())
    assert statistic < 21.1  # chi-square with 3 degrees of freedom, exceeded once in 10,000


@pytest.mark.parametrize("name", SETTINGS)
def test_where_nothing_is_accepted_the_weight_is_0_and_a_dead_end_is_no_spent_budget(name: str) -> None:
    drawn = SETTINGS[name](ODDS.log(), lambda _token: False, torch.Generator().manual_seed(0))
    assert (drawn.token, drawn.log_weight) == (None, -math.inf)
    is_limited = name.endswith(("1", "2", "3"))
    assert drawn.is_spent == is_limited
    assert is_limited or drawn.calls == 4


def test_tiny_masses_keep_their_precision() -> None:
    """A token of probability 1e-30 behind one that is refused: the weights are its probability, not 0."""
    odds = torch.tensor([0.0, -69.0], dtype=torch.double).log_softmax(0)
    source = torch.Generator().manual_seed(0)
    for draw in (draw_recursive, draw_two_loops):
        drawn = draw(odds, {1}.__contains__, source)
        assert drawn.token == 1
        assert drawn.log_weight == pytest.approx(-69.0 - math.log(2) * (draw is draw_two_loops), rel=1e-12)
    geometric = [draw_geometric(odds, {1}.__contains__, source).log_weight for _ in range(50)]
    assert all(math.isfinite(own) and own < -60 for own in geometric)


def test_an_order_of_many_tokens_holds_each_once_with_what_is_left() -> None:
    odds = torch.randn(300, generator=torch.Generator().manual_seed(0)).double().log_softmax(0)
    odds[7] = -math.inf
    found = list(tokens_in_random_order(odds, torch.Generator().manual_seed(1)))
    assert sorted(own.token for own in found) == [token for token in range(300) if token != 7]
    for place in (0, 1, 63, 64, 65, 200, 298):
        rest = odds[[own.token for own in found[place:]]].logsumexp(0)
        assert found[place].log_rest == pytest.approx(float(rest), abs=1e-12)
        assert found[place].log_odds == float(odds[found[place].token])


def test_the_first_accepted_token_has_weight_1() -> None:
    drawn = draw_first(ODDS.log(), {1, 3}.__contains__, torch.Generator().manual_seed(0))
    assert drawn.token in {1, 3}
    assert drawn.log_weight == 0
    spent = draw_first(ODDS.log(), lambda _token: False, torch.Generator(), 2)
    assert (spent.token, spent.calls, spent.is_spent) == (None, 2, True)
