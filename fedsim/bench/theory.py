"""Exact loss of independent sampling of dependent tokens in parallel, for list operations.

Kang et al. 2025, arXiv 2510.04767. With the total correlation C(Y) = sum_i H(Y_i) - H(Y), each product of marginals has
a KL divergence from the distribution of Y of at least C(Y), and the product of its own marginals attains it. Sampling
the positions in steps S_1 .. S_T loses at least the sum of E[C(S_t | S_<t)], which an exact model attains.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from fedsim.data._lists import OPERATIONS, sample_of

Outcome = tuple[int, ...]
_END = -1  # end padding, no token


def entropy(weights: Iterable[float]) -> float:
    """Return the entropy of unnormalised weights, in nats."""
    positive = [weight for weight in weights if weight > 0]
    total = sum(positive)
    return -sum(weight / total * math.log(weight / total) for weight in positive)


def total_correlation(law: Mapping[Outcome, float]) -> float:
    """Return the total correlation of a distribution over outcomes of one length, in nats."""
    return sum(map(entropy, (marginal.values() for marginal in _marginals(law)))) - entropy(law.values())


def one_step_accuracy(outcomes: Sequence[Outcome]) -> float:
    """Return the probability of the outcomes, which are equally likely, under the product of their marginals."""
    marginals, count = _marginals(dict.fromkeys(outcomes, 1.0)), len(outcomes)
    return sum(
        math.prod(marginal[token] / count for marginal, token in zip(marginals, outcome, strict=True))
        for outcome in outcomes
    )


def accuracy(outcomes: Sequence[Outcome], at_once: int) -> float:
    """Return the probability that an exact model with `at_once` random positions per step samples an outcome.

    Outcomes are equally likely. All orders are enumerated, so outcomes must be few and short.
    """
    known: dict[tuple[frozenset[Outcome], frozenset[int]], float] = {}

    def share(alive: frozenset[Outcome], masked: frozenset[int]) -> float:
        if len(alive) == 1 or not masked:
            return 1.0
        if (alive, masked) not in known:
            chosen = list(combinations(sorted(masked), min(at_once, len(masked))))
            known[alive, masked] = sum(_after(alive, masked, places) for places in chosen) / len(chosen)
        return known[alive, masked]

    def _after(alive: frozenset[Outcome], masked: frozenset[int], places: tuple[int, ...]) -> float:
        marginals = [Counter(survivor[place] for survivor in alive) for place in places]
        groups: dict[Outcome, set[Outcome]] = {}
        for outcome in alive:
            groups.setdefault(tuple(outcome[place] for place in places), set()).add(outcome)
        right = 0.0
        for tokens, left in groups.items():
            odds = math.prod(marginal[token] / len(alive) for marginal, token in zip(marginals, tokens, strict=True))
            right += odds * share(frozenset(left), masked - set(places))
        return right

    return share(frozenset(outcomes), frozenset(range(len(outcomes[0]))))


def steps_correlation(outcomes: Sequence[Outcome], at_once: int) -> float:
    """Return the sum over steps of E[C(S_t | S_<t)] in nats, with `at_once` positions per step, averaged over orders.

    It is the smallest KL divergence of the outcomes' distribution from that of any model with this schedule. Outcomes
    are equally likely. All orders are enumerated, so outcomes must be few and short.
    """
    known: dict[tuple[frozenset[Outcome], frozenset[int]], float] = {}

    def nats(alive: frozenset[Outcome], masked: frozenset[int]) -> float:
        if len(alive) == 1 or not masked:
            return 0.0
        if (alive, masked) not in known:
            chosen = list(combinations(sorted(masked), min(at_once, len(masked))))
            known[alive, masked] = sum(_from(alive, masked, places) for places in chosen) / len(chosen)
        return known[alive, masked]

    def _from(alive: frozenset[Outcome], masked: frozenset[int], places: tuple[int, ...]) -> float:
        groups: dict[Outcome, set[Outcome]] = {}
        for outcome in alive:
            groups.setdefault(tuple(outcome[place] for place in places), set()).add(outcome)
        later_nats = sum(
            len(left) / len(alive) * nats(frozenset(left), masked - set(places)) for left in groups.values()
        )
        return total_correlation({tokens: float(len(left)) for tokens, left in groups.items()}) + later_nats

    return nats(frozenset(outcomes), frozenset(range(len(outcomes[0]))))


def shuffle_correlation(n: int, at_once: int) -> float:
    """Return `steps_correlation` of all permutations of n letters, in closed form."""
    steps = [(left, min(at_once, left)) for left in range(n, 0, -at_once)]
    return sum(k * math.log(left) - math.log(math.perm(left, k)) for left, k in steps)


def replace_correlation(n: int, at_once: int) -> float:
    """Return `steps_correlation` of replacing one of n letters, in closed form."""
    nats = 0.0
    for left in range(n, 0, -at_once):
        k = min(at_once, left)
        law = entropy([1.0] * k + [float(left - k)])
        nats += left / n * (k * entropy((1.0, left - 1.0)) - law)
    return nats


def shuffle_accuracy(n: int, at_once: int) -> float:
    """Return `accuracy` of all permutations of n letters, in closed form."""
    left, odds = n, 1.0
    while left:
        k = min(at_once, left)
        odds *= math.perm(left, k) / left**k
        left -= k
    return odds


def replace_accuracy(n: int, at_once: int) -> float:
    """Return `accuracy` of replacing one of n letters, in closed form."""
    left, none_yet, odds = n, 1.0, 0.0
    while left:
        k = min(at_once, left)
        odds += none_yet * (k / left) * (1 - 1 / left) ** (k - 1)
        none_yet *= (1 - 1 / left) ** k
        left -= k
    return odds


class Analysed(NamedTuple):
    """An operation on n letters: C in nats, and accuracy and minimum loss in nats by positions per step."""

    operation: str
    correlation: float
    accuracies: tuple[float, ...]
    losses: tuple[float, ...]


def analyse(n: int, at_once: Sequence[int]) -> list[Analysed]:
    """Return the exact values of all operations; the identity counts as a shuffle here."""
    return [_analyse_operation(operation, n, at_once) for operation in OPERATIONS]


def _analyse_operation(operation: str, n: int, at_once: Sequence[int]) -> Analysed:
    if operation == "shuffle":
        nats = n * math.log(n) - math.lgamma(n + 1)
        formulas = (shuffle_accuracy, shuffle_correlation)
        return Analysed(operation, nats, *(_values_at(formula, n, at_once) for formula in formulas))
    if operation == "replace-random":
        nats = (n - 1) * math.log(n / (n - 1))
        formulas = (replace_accuracy, replace_correlation)
        return Analysed(operation, nats, *(_values_at(formula, n, at_once) for formula in formulas))
    outcomes = list(sample_of(operation, tuple(range(n)), 0, n).answers())
    law = dict.fromkeys(outcomes, 1.0)
    accuracies, losses = (tuple(score(outcomes, count) for count in at_once) for score in (accuracy, steps_correlation))
    return Analysed(operation, total_correlation(law), accuracies, losses)


def mean_loss(outcome_sets: Sequence[Sequence[Outcome]]) -> tuple[float, float]:
    """Return the mean of C, in nats, and of the one-step accuracy; all answers of a question are equally likely.

    Shorter answers of a question are padded with end tokens.
    """
    filled = [_pad_outcomes(outcomes) for outcomes in outcome_sets]
    laws = [dict.fromkeys(outcomes, 1.0) for outcomes in filled]
    return (
        sum(map(total_correlation, laws)) / len(laws),
        sum(map(one_step_accuracy, filled)) / len(filled),
    )


def _pad_outcomes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    longest = max(map(len, outcomes))
    return [(*outcome, *[_END] * (longest - len(outcome))) for outcome in outcomes]


def _values_at(formula: Callable[[int, int], float], n: int, at_once: Sequence[int]) -> tuple[float, ...]:
    return tuple(formula(n, count) for count in at_once)


def _marginals(law: Mapping[Outcome, float]) -> list[dict[int, float]]:
    length = len(next(iter(law)))
    marginals: list[dict[int, float]] = [{} for _ in range(length)]
    for outcome, weight in law.items():
        for place, token in enumerate(outcome):
            marginals[place][token] = marginals[place].get(token, 0.0) + weight
    return marginals
