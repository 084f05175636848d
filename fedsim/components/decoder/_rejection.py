"""Weighted rejection sampling: sample one token accepted by a constraint, with an unbiased weight, from few calls.

With probabilities p and accepted tokens A, each function except `draw_first` returns a token X and a weight W with E[W
1{X = t}] = p_t for t in A, so that E[W] = Z = sum over A of p. Paper: Lipkin et al. 2025, arXiv 2504.05410. Sampling
without replacement orders tokens by ln p + Gumbel noise. Remaining mass is summed over remaining tokens, never computed
as 1 minus removed mass, because Z may be tiny.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

Accepts = Callable[[int], bool]

_FIRST = 64  # tokens sorted first; few draws need more


class TokenDraw(NamedTuple):
    """Result of one draw.

    Attributes:
        token: accepted token; None if none was accepted.
        log_weight: ln W.
        calls: calls of the constraint.
        rejected_calls: calls that returned False, including a look-ahead.
        is_spent: whether the draw stopped at the maximum number of rejections, not for lack of tokens.
    """

    token: int | None
    log_weight: float
    calls: int
    rejected_calls: int
    is_spent: bool = False


class RankedToken(NamedTuple):
    """A token of a random order, ln of its probability, and ln of the mass of it and all later tokens."""

    token: int
    log_odds: float
    log_rest: float


class _Counted:
    """A constraint that counts its calls."""

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


def draw_first(log_odds: Tensor, accepts: Accepts, generator: torch.Generator, limit: int | None = None) -> TokenDraw:
    """Return the first accepted token of a random order, with weight 1: it follows p restricted to A.

    Args:
        log_odds: ln p, shape (V,), double precision, normalised.
        accepts: the constraint.
        generator: random source.
        limit: maximum number of rejections.
    """
    counted = _Counted(accepts)
    for item in tokens_in_random_order(log_odds, generator):
        if counted(item.token):
            return counted.draw_of(item.token, 0.0)
        if counted.rejected == limit:
            return counted.nothing(is_spent=True)
    return counted.nothing(is_spent=False)


def draw_recursive(
    log_odds: Tensor, accepts: Accepts, generator: torch.Generator, limit: int | None = None
) -> TokenDraw:
    """Return the first accepted token X, with weight 1 - R if the next token of the order is accepted too, else p_X.

    R is the mass rejected before X. Arguments as in `draw_first`.
    """
    counted, order = _Counted(accepts), tokens_in_random_order(log_odds, generator)
    for item in order:
        if counted(item.token):
            # At the last allowed rejection, 1 - R alone is unbiased, so no look-ahead is needed.
            backup = None if limit is not None and counted.rejected == limit - 1 else next(order, None)
            is_next = backup is None or counted(backup.token)
            return counted.draw_of(item.token, item.log_rest if is_next else item.log_odds)
        if counted.rejected == limit:
            return counted.nothing(is_spent=True)
    return counted.nothing(is_spent=False)


def draw_two_loops(log_odds: Tensor, accepts: Accepts, generator: torch.Generator) -> TokenDraw:
    """Return the first accepted token, with weight (1 - R) / (n + 1), where R is the mass rejected before it.

    n counts all rejections until the next acceptance in a new order without the rejected tokens. Arguments as in
    `draw_first`.
    """
    counted, left = _Counted(accepts), log_odds.clone()
    for item in tokens_in_random_order(log_odds, generator):
        if not counted(item.token):
            left[item.token] = -math.inf
            continue
        # The loop ends, because at least X is accepted among the remaining tokens.
        next(
            candidate
            for candidate in tokens_in_random_order(left, generator)
            if candidate.token == item.token or counted(candidate.token)
        )
        return counted.draw_of(item.token, item.log_rest - math.log(counted.rejected + 1))
    return counted.nothing(is_spent=False)


def draw_geometric(
    log_odds: Tensor, accepts: Accepts, generator: torch.Generator, limit: int | None = None, wanted: int = 2
) -> TokenDraw:
    """Return the first accepted token of draws with replacement, weighted by Haldane's estimate of the acceptance rate.

    W = min(m - 1, a) / (a + r - 1) with a acceptances and r rejections; sampling stops at m acceptances or the maximum
    number of rejections. Draws of tokens known to be rejected are skipped: their number is sampled from its geometric
    distribution.

    Args:
        log_odds: as in `draw_first`.
        accepts: the constraint, called once per token.
        generator: random source.
        limit: maximum number of rejections, including skipped draws.
        wanted: m, at least 2.
    """
    counted, known = _Counted(accepts), set[int]()
    left, log_rest = log_odds.clone(), 0.0
    first, accepted, rejections = -1, 0, 0.0
    while accepted < wanted:
        rejections += _hits_before(log_rest, generator)
        if limit is not None and rejections >= limit:
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
        if log_rest == -math.inf or (limit is not None and rejections >= limit):
            break
    if accepted == 0:
        return counted.nothing(is_spent=log_rest > -math.inf)
    rejections = rejections if limit is None else min(rejections, limit)
    return counted.draw_of(first, math.log(min(wanted - 1, accepted)) - math.log(accepted + rejections - 1))


def tokens_in_random_order(log_odds: Tensor, generator: torch.Generator) -> Iterator[RankedToken]:
    """Yield all tokens with nonzero probability in an order sampled without replacement."""
    keys = log_odds + _gumbel(len(log_odds), generator)
    possible, done = int((log_odds > -math.inf).sum()), 0
    for size in dict.fromkeys((min(_FIRST, possible), possible)):
        tokens = keys.topk(size).indices
        sorted_odds = log_odds[tokens]
        remaining = log_odds.index_fill(0, tokens, -math.inf).logsumexp(0, keepdim=True)
        rests = torch.cat((sorted_odds, remaining)).flip(0).logcumsumexp(0).flip(0)
        for item in zip(tokens[done:].tolist(), sorted_odds[done:].tolist(), rests[done:-1].tolist(), strict=True):
            yield RankedToken(*item)
        done = size


def _gumbel(size: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(size, generator=generator, dtype=torch.double)
    return -(-uniform.clamp_min_(torch.finfo(torch.double).tiny).log()).log()


def _hits_before(log_rest: float, generator: torch.Generator) -> float:
    """Sample how many draws hit a set of mass 1 - e^log_rest before the first miss."""
    if log_rest == 0.0:
        return 0.0
    uniform = 1.0 - float(torch.rand(1, generator=generator, dtype=torch.double))
    is_small = log_rest < -math.log(2.0)  # each form is accurate on its side
    log_hit = math.log1p(-math.exp(log_rest)) if is_small else math.log(-math.expm1(log_rest))
    return math.floor(math.log(uniform) / log_hit) if log_hit < 0.0 else math.inf
