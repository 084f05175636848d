"""Code of weighted rejection sampling: one token that a constraint accepts, and an unbiased weight, from few calls.

With odds p and accepted tokens A, each function returns a token X and a weight W with E[W 1{X = t}] = p_t for t in A,
so that E[W] = Z = sum over A of p. Paper: Lipkin et al. 2025, arXiv 2504.05410. A random order without replacement is
that of ln p + Gumbel noise. Masses are sums over what is left, never 1 minus what is gone: Z may be tiny.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Accepts = Callable[[int], bool]

_FIRST = 64  # tokens that are sorted at first; few draws go beyond


class TokenDraw(NamedTuple):
    """What one draw came to.

    Attributes:
        token: None where nothing was accepted.
        log_weight: ln W.
        calls: of the constraint.
        rejected: calls that said no, those of a look ahead among them.
        is_spent: whether it gave up at the most rejections, and not because nothing is left.
    """

    token: int | None
    log_weight: float
    calls: int
    rejected: int
    is_spent: bool = False


class RankedToken(NamedTuple):
    """A token of a random order, ln of its odds, and ln of the odds of it and all behind it."""

    token: int
    log_odds: float
    log_rest: float


class _Counted:
    """A constraint whose calls are counted."""

    def __init__(self, accepts: Accepts) -> None:
        self._accepts, self.calls, self.rejected = accepts, 0, 0

    def __call__(self, token: int) -> bool:
        self.calls += 1
        is_accepted = self._accepts(token)
        self.rejected += not is_accepted
        return is_accepted

    def draw_of(self, token: int, log_weight: float) -> TokenDraw:
        return TokenDraw(token, log_weight, self.calls, self.rejected)

    def nothing(self, *, is_spent: bool) -> TokenDraw:
        return TokenDraw(None, -math.inf, self.calls, self.rejected, is_spent)


def draw_first(log_odds: Tensor, accepts: Accepts, generator: torch.Generator, most: int | None = None) -> TokenDraw:
    """Return the first token that is accepted, with weight 1: it follows p on A, and its weight says nothing.

    Args:
        log_odds: ln p, shape (V,), double precision, normalised.
        accepts: the constraint.
        generator: source of the draw.
        most: rejections at which it gives up.
    """
    counted = _Counted(accepts)
    for item in in_random_order(log_odds, generator):
        if counted(item.token):
            return counted.draw_of(item.token, 0.0)
        if counted.rejected == most:
            return counted.nothing(is_spent=True)
    return counted.nothing(is_spent=False)


def draw_recursive(
    log_odds: Tensor, accepts: Accepts, generator: torch.Generator, most: int | None = None
) -> TokenDraw:
    """Return the first token that is accepted, weighted by whether the one behind it is: 1 - R if so, else p of X.

    R is what was rejected before X. The arguments are those of `draw_first`.
    """
    counted, order = _Counted(accepts), in_random_order(log_odds, generator)
    for item in order:
        if counted(item.token):
            # At the last draw that is granted, 1 - R alone is unbiased, and spares the look ahead.
            behind = None if most is not None and counted.rejected == most - 1 else next(order, None)
            is_next = behind is None or counted(behind.token)
            return counted.draw_of(item.token, item.log_rest if is_next else item.log_odds)
        if counted.rejected == most:
            return counted.nothing(is_spent=True)
    return counted.nothing(is_spent=False)


def draw_two_loops(log_odds: Tensor, accepts: Accepts, generator: torch.Generator) -> TokenDraw:
    """Return the first token that is accepted, with (1 - R) / (n + 1).

    n counts all rejections up to the next acceptance in a fresh order without the tokens rejected before. The arguments
    are those of `draw_first`.
    """
    counted, left = _Counted(accepts), log_odds.clone()
    for item in in_random_order(log_odds, generator):
        if not counted(item.token):
            left[item.token] = -math.inf
            continue
        # Of what is left, X at least is accepted.
        next(other for other in in_random_order(left, generator) if other.token == item.token or counted(other.token))
        return counted.draw_of(item.token, item.log_rest - math.log(counted.rejected + 1))
    return counted.nothing(is_spent=False)


def draw_geometric(
    log_odds: Tensor, accepts: Accepts, generator: torch.Generator, most: int | None = None, wanted: int = 2
) -> TokenDraw:
    """Return the first accepted of draws with replacement, weighted by Haldane's estimate of their rate.

    W = min(m - 1, a) / (a + r - 1) with a acceptances and r rejections, at m acceptances or the most rejections. Draws
    that would hit tokens known to be rejected are not made: how many there were is drawn from their geometric law.

    Args:
        log_odds: as in `draw_first`.
        accepts: the constraint; each token is asked once.
        generator: source of the draws.
        most: rejections at which it ends, those among them that are not made.
        wanted: m, at least 2.
    """
    counted, known = _Counted(accepts), set[int]()
    left, log_rest = log_odds.clone(), 0.0
    first, accepted, rejections = -1, 0, 0.0
    while accepted < wanted:
        rejections += _hits_before(log_rest, generator)
        if most is not None and rejections >= most:
            break
        token = int((left + _gumbel(len(left), generator)).argmax())
        if token in known or counted(token):
            known.add(token)
            first = token if accepted == 0 else first
            accepted += 1
            continue
        rejections += 1
        left[token] = -math.inf
        log_rest = min(0.0, float(left.logsumexp(0)))
        if log_rest == -math.inf or (most is not None and rejections >= most):
            break
    if accepted == 0:
        return counted.nothing(is_spent=log_rest > -math.inf)
    rejections = rejections if most is None else min(rejections, most)
    return counted.draw_of(first, math.log(min(wanted - 1, accepted)) - math.log(accepted + rejections - 1))


def in_random_order(log_odds: Tensor, generator: torch.Generator) -> Iterator[RankedToken]:
    """Yield all tokens with odds above 0, each drawn by its share of what is left."""
    keys = log_odds + _gumbel(len(log_odds), generator)
    possible, done = int((log_odds > -math.inf).sum()), 0
    for size in dict.fromkeys((min(_FIRST, possible), possible)):
        tokens = keys.topk(size).indices
        sorted_odds = log_odds[tokens]
        beyond = log_odds.index_fill(0, tokens, -math.inf).logsumexp(0, keepdim=True)
        rests = torch.cat((sorted_odds, beyond)).flip(0).logcumsumexp(0).flip(0)
        for item in zip(tokens[done:].tolist(), sorted_odds[done:].tolist(), rests[done:-1].tolist(), strict=True):
            yield RankedToken(*item)
        done = size


def _gumbel(size: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(size, generator=generator, dtype=torch.double)
    return -(-uniform.clamp_min_(torch.finfo(torch.double).tiny).log()).log()


def _hits_before(log_rest: float, generator: torch.Generator) -> float:
    """Return how many draws hit a share 1 - e^log_rest of all before one misses it."""
    if log_rest == 0.0:
        return 0.0
    uniform = 1.0 - float(torch.rand(1, generator=generator, dtype=torch.double))
    is_small = log_rest < -math.log(2.0)  # either form is exact on its side
    log_hit = math.log1p(-math.exp(log_rest)) if is_small else math.log(-math.expm1(log_rest))
    return math.floor(math.log(uniform) / log_hit) if log_hit < 0.0 else math.inf
