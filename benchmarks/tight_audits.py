"""What audits of a stated epsilon show: how near they come, how often they contradict a true claim, what they miss.

Canaries that do not overlap are simulated: scores are Gaussian, and higher by the claim's mu where a canary is in. Of
each claim 400 audits with the stated noise, and 400 with half of it. A shared coin is a mechanism that keeps its claim
and answers about all canaries at once: bounds that suppose noise apart for each canary call it a liar too often.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row, share
from fedsim.privacy.accounting import Spent, gaussian_delta, gaussian_epsilon
from fedsim.privacy.audit import epsilon_at_least
from fedsim.privacy.claims import Claim
from fedsim.privacy.one_run import (
    Plan,
    accuracies_of,
    contradicted_by_runs,
    count_right,
    epsilon_if_apart,
    epsilon_of_one_run,
    epsilon_of_runs,
    find_critical_count,
    plan_audit,
    simulate_runs,
)

_DELTA, _CONFIDENCE, _STEPS = 1e-5, 0.95, 5
_EPSILONS = (1.0, 2.26, 4.98, 11.48)
_CANARIES = (200, 700, 2000)
_RUNS = 50
_HALF = 0.5  # of the noise, which an audit should notice
_COINS = {2.26: 1.1, 4.98: 2.4, 11.48: 5.9}  # epsilon of the answers that a shared coin lets through
_SAMPLED = Claim((Spent(1.0, 0.1, 50),), _DELTA)


@experiment("tight-audits", minutes=3, page="accounting")
def tight_audits(_budget: Budget) -> Cells:
    """Return a cell for each bound."""
    return {
        "(epsilon, delta) alone": partial(_rows_of_plans, _epsilon_rows),
        "the whole curve": partial(_rows_of_plans, _curve_rows),
        "noise apart for each canary": partial(_rows_of_plans, _if_apart),
        "fifty runs": _run_rows,
        "steps that leave units out": _sampled_step_rows,
        "one coin for all canaries": _shared_coin_rows,
    }


def _claim(epsilon: float) -> Claim:
    """Return the claim of steps in which each unit takes part."""
    mu = brentq(lambda mu: gaussian_epsilon(mu, _DELTA) - epsilon, 0.05, 5.0)
    return Claim((Spent(math.sqrt(_STEPS) / mu, 1.0, _STEPS),), _DELTA)


def _rows_of_plans(rows_of: Callable[[str, Claim, Plan], Iterator[Row]]) -> Iterator[Row]:
    for epsilon in _EPSILONS:
        claim = _claim(epsilon)
        for canaries in _CANARIES:
            plan = plan_audit(claim, canaries, 1, _CONFIDENCE, np.random.default_rng(0), None)
            yield from rows_of(f"epsilon {epsilon:g}, {canaries} canaries", claim, plan)


def _curve_rows(setting: str, claim: Claim, plan: Plan) -> Iterator[Row]:
    true, half = (_counts(one, plan) for one in (claim, claim.with_noise(_HALF)))
    shown = partial(epsilon_of_one_run, claim, plan)
    yield from _rows(setting, claim, shown, find_critical_count(claim, plan), true, half, must="<= 0.05")


def _epsilon_rows(setting: str, claim: Claim, plan: Plan) -> Iterator[Row]:
    def shown(right: int) -> float:
        return epsilon_at_least(plan.canaries, plan.guesses, right, claim.delta, plan.confidence)

    true, half = (_counts(one, plan) for one in (claim, claim.with_noise(_HALF)))
    least = bisect_left(range(plan.guesses + 1), True, key=lambda right: shown(right) > claim.epsilon)
    yield from _rows(setting, claim, shown, least, true, half, must="<= 0.05")


def _if_apart(setting: str, claim: Claim, plan: Plan) -> Iterator[Row]:
    """Yield rows of guesses about all canaries, each right on its own."""

    def shown(right: int) -> float:
        return epsilon_if_apart(claim, plan.canaries - right, plan.canaries, 1.0 - plan.confidence)

    true, half = (_counts_of_all(one, plan.canaries) for one in (claim, claim.with_noise(_HALF)))
    least = bisect_left(range(plan.canaries + 1), True, key=lambda right: shown(right) > claim.epsilon)
    yield from _rows(setting, claim, shown, least, true, half)


def _rows(
    setting: str,
    claim: Claim,
    shown: Callable[[int], float],
    least: int,
    true: NDArray[np.int64],
    half: NDArray[np.int64],
    must: str = "",
) -> Iterator[Row]:
    """Yield what is shown in the middle, and how often so many right guesses contradict a claim.

    Args:
        setting: of the rows.
        claim: which is audited.
        shown: epsilon of a number of right guesses, which grows with it.
        least: right guesses that contradict.
        true: right guesses of audits of the stated noise, shape (N,).
        half: of half of it.
        must: what false contradictions keep.
    """
    counts = median_row("", "", true.tolist(), "")
    low, middle, high = (shown(round(count or 0)) / claim.epsilon for count in (counts.low, counts.value, counts.high))
    yield Row("shown of what is stated, median", setting, middle, "", low, high, len(true))
    yield share("contradicted though true", setting, (true >= least).tolist(), must)
    yield share("half the noise contradicted", setting, (half >= least).tolist())


def _counts(claim: Claim, plan: Plan) -> NDArray[np.int64]:
    included, scores = simulate_runs(claim, plan.canaries, 1, np.random.default_rng(1))
    return count_right(included[:, 0], scores[:, 0], plan.guesses)


def _counts_of_all(claim: Claim, canaries: int) -> NDArray[np.int64]:
    accuracies = accuracies_of(*simulate_runs(claim, canaries, 1, np.random.default_rng(1)))
    return np.rint(canaries * accuracies[:, 0]).astype(np.int64)


def _run_rows() -> Iterator[Row]:
    canaries, risk = _CANARIES[0], 1.0 - _CONFIDENCE
    for epsilon in _EPSILONS:
        setting, claim = f"epsilon {epsilon:g}, {_RUNS} runs of {canaries} canaries", _claim(epsilon)
        true, half = (
            accuracies_of(*simulate_runs(one, canaries, _RUNS, np.random.default_rng(1))).tolist()
            for one in (claim, claim.with_noise(_HALF))
        )
        ratios = [epsilon_of_runs(claim, runs, risk) / claim.epsilon for runs in true]
        yield median_row("shown of what is stated, median", setting, ratios, "")
        lies = [float(contradicted_by_runs(claim, runs, risk)) for runs in true]
        yield share("contradicted though true", setting, lies, "<= 0.05")
        yield share("half the noise contradicted", setting, [contradicted_by_runs(claim, runs, risk) for runs in half])


def _sampled_step_rows() -> Iterator[Row]:
    """Yield rows of one training, by its own curve and by that of Gaussian noise with the same epsilon."""
    gaussian = _claim(_SAMPLED.epsilon)
    for canaries in _CANARIES:
        plan = Plan(canaries, 2 * (canaries // 7), 1, _CONFIDENCE, 0.0, 0.0)
        true, half = (_counts(one, plan) for one in (_SAMPLED, _SAMPLED.with_noise(_HALF)))
        for words, claim in (("its own curve", _SAMPLED), ("a Gaussian curve", gaussian)):
            setting = f"rate 0.1, 50 steps, {canaries} canaries, {words}"
            yield from _rows(
                setting, claim, partial(epsilon_of_one_run, claim, plan), find_critical_count(claim, plan), true, half
            )


def _shared_coin_rows() -> Iterator[Row]:
    canaries, risk = 200, 1.0 - _CONFIDENCE
    for epsilon, level in _COINS.items():
        claim, setting = _claim(epsilon), f"epsilon {epsilon:g}, {canaries} canaries"
        plan = Plan(canaries, canaries // 2, 1, _CONFIDENCE, 0.0, 0.0)
        included, scores = _shared_coins(claim, level, canaries)
        right = count_right(included, scores, plan.guesses)
        every = ((scores > 1 / 2) == included).sum(-1)
        apart = [epsilon_if_apart(claim, canaries - int(one), canaries, risk) > claim.epsilon for one in every]
        yield share(
            "contradicted by the whole curve", setting, (right >= find_critical_count(claim, plan)).tolist(), "<= 0.05"
        )
        yield share("contradicted if noise were apart", setting, apart)


def _shared_coins(claim: Claim, level: float, canaries: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return coins and scores (draws, canaries) of a mechanism that seldom answers, and then about all canaries.

    Answers are randomised responses of epsilon `level`; they come with the largest chance that the claim allows.
    """
    epsilons = np.linspace(0.0, level - 1e-3, 400)
    excess = (math.exp(level) - np.exp(epsilons)) / (1 + math.exp(level))
    chance = min(gaussian_delta(claim.mu, float(one)) / two for one, two in zip(epsilons, excess, strict=True))
    generator = np.random.default_rng(1)
    included = generator.random((2000, canaries)) < 1 / 2
    is_true = generator.random(included.shape) < 1 / (1 + math.exp(-level))
    coins = generator.random(included.shape) < 1 / 2
    is_heard = generator.random((len(included), 1)) < chance
    answers = np.where(is_heard, np.where(is_true, included, ~included), coins)
    return included, answers + 1e-6 * generator.standard_normal(included.shape)
