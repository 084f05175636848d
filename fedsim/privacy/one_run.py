"""Audit of stated noisy steps: lower bounds on epsilon from their trade-off function, and the audit's power.

A fair coin includes each canary, and a test guesses some of the coins. Two bounds hold for every mechanism that keeps
the claim, for any dependence between canaries within a run:

    one run    right guesses c of r, among m canaries, by the recursion of `contradicts` (Mahloujifar, Melis, Chaudhuri
               2024, arXiv 2410.22235)
    R runs     prod of accuracies a_k over R independent runs is at least x^R with a chance of at most
               ((1 + delta(0)) / 2 / x)^R, since each a_k has a mean of at most (1 + delta(0)) / 2 (Markov)

A third bound is tighter and assumes independent noise for each canary: the number of wrong guesses is then binomial.
The result is the epsilon of the largest noise at which the same steps would be contradicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.claims import Claim

_LEAST_FACTOR, _MOST_FACTOR, _HALVINGS = 1e-2, 1e2, 16  # of the noise: relative error of 1.4e-4
_SHARES = (0.1, 2 / 7, 0.5, 0.7, 0.85)  # of the canaries that are guessed; all would force as many in as out
_DRAWS = 400  # power within 0.05 with a chance of 95 %
_LIAR = 0.5  # share of the stated noise that an audit should notice


@dataclass(frozen=True)
class Plan:
    """Parameters of an audit's guesses, fixed before any score is seen.

    Attributes:
        canaries: number of canaries, each included by a fair coin.
        guesses: number of guesses in a run, even.
        runs: independent runs.
        confidence: of the lower bound.
        power: probability that half of the stated noise would be contradicted, if canaries do not overlap.
        max_epsilon: lower bound on epsilon if all guesses are right.
    """

    canaries: int
    guesses: int
    runs: int
    confidence: float
    power: float
    max_epsilon: float

    @property
    def risk(self) -> float:
        """Error probability of each bound; with several runs two bounds share 1 - confidence."""
        return (1.0 - self.confidence) / (1 if self.runs == 1 else 2)


@dataclass(frozen=True)
class AuditResult:
    """Result of the audit runs of a claim.

    Attributes:
        plan: parameters of the guesses.
        right: right guesses of the first run.
        epsilon: lower bound that holds for any mechanism, at the claim's delta; 0 without evidence.
        apart: the same, if noise is independent for each canary; None for subsampled steps.
        gap: mean score of included minus excluded canaries, in standard deviations; `mu` of the claim at best.
    """

    plan: Plan
    right: int
    epsilon: float
    apart: float | None
    gap: float


def evaluate_runs(claim: Claim, plan: Plan, included: NDArray[np.bool_], scores: NDArray[np.float64]) -> AuditResult:
    """Return the audit result of a claim from coins and scores, both (runs, canaries).

    Scores of included canaries are higher. The mean score, the threshold of `accuracies_of`, lies between both groups.
    """
    right = int(count_right(included[0], scores[0], plan.guesses))
    accuracies = accuracies_of(included, scores)
    epsilon = epsilon_of_one_run(claim, plan, right)
    if plan.runs > 1:
        epsilon = max(epsilon, epsilon_of_runs(claim, accuracies.tolist(), plan.risk))
    wrong = plan.canaries - round(float(accuracies[0]) * plan.canaries)
    epsilon_apart = None if claim.samples else epsilon_if_apart(claim, wrong, plan.canaries, 1.0 - plan.confidence)
    return AuditResult(plan, right, epsilon, epsilon_apart, _gap(included[0], scores[0]))


def plan_audit(
    claim: Claim, canaries: int, runs: int, confidence: float, generator: np.random.Generator, guesses: int | None
) -> Plan:
    """Return the plan of a claim's audit: the number of guesses with the largest power, then with the largest bound.

    Args:
        claim: the audited claim.
        canaries: number of canaries, at least 2.
        runs: independent runs.
        confidence: of the lower bound.
        generator: simulates runs with half of the stated noise.
        guesses: their number if it is fixed already, even.
    """
    numbers = [guesses] if guesses else sorted({max(2, 2 * int(canaries * share / 2)) for share in _SHARES})
    plans = [
        _simulate_power(claim, Plan(canaries, number, runs, confidence, 0.0, 0.0), generator) for number in numbers
    ]
    best = max(plans, key=lambda plan: plan.power)  # of several the first
    if best.power > 0.0:
        return replace(best, max_epsilon=_max_epsilon(claim, best))
    included, scores = simulate_runs(claim, canaries, 1, generator)

    def usual(plan: Plan) -> float:
        """Return the median lower bound of a run under the claim."""
        return epsilon_of_one_run(claim, plan, int(np.median(count_right(included, scores, plan.guesses))))

    best = max(plans, key=usual)
    return replace(best, max_epsilon=_max_epsilon(claim, best))


def _simulate_power(claim: Claim, plan: Plan, generator: np.random.Generator) -> Plan:
    included, scores = simulate_runs(claim.with_noise(_LIAR), plan.canaries, plan.runs, generator)
    is_caught = count_right(included[:, 0], scores[:, 0], plan.guesses) >= find_critical_count(claim, plan)
    if plan.runs > 1:
        is_caught |= [contradicted_by_runs(claim, run, plan.risk) for run in accuracies_of(included, scores)]
    return replace(plan, power=float(is_caught.mean()))


def _max_epsilon(claim: Claim, plan: Plan) -> float:
    """Return the lower bound on epsilon if all guesses are right."""
    of_one = epsilon_of_one_run(claim, plan, plan.guesses)
    return max(of_one, epsilon_of_runs(claim, [1.0] * plan.runs, plan.risk)) if plan.runs > 1 else of_one


def contradicts(claim: Claim, canaries: int, guesses: int, right: int, risk: float) -> bool:
    """Say whether so many right guesses have a chance of at most `risk` under a claim."""
    sure, false = risk * right / canaries, risk * (guesses - right) / canaries
    for number in range(right - 1, -1, -1):
        larger = max(false, claim.least_wrong(sure))
        if larger == false:
            break
        sure = min(1.0, sure + number / (guesses - number) * (larger - false))
        false = larger
        if sure + false > guesses / canaries:
            return True
    return sure + false > guesses / canaries


def contradicted_by_runs(claim: Claim, accuracies: Sequence[float], risk: float) -> bool:
    """Say whether the accuracies of independent runs, in [0, 1], have a chance of at most `risk` under a claim."""
    mean = math.exp(float(np.log(np.maximum(accuracies, 1e-300)).mean()))
    return mean * risk ** (1.0 / len(accuracies)) > claim.accuracy


def epsilon_of_one_run(claim: Claim, plan: Plan, right: int) -> float:
    """Return the epsilon that so many right guesses of a run show."""
    return _bound_epsilon(claim, lambda run: contradicts(run, plan.canaries, plan.guesses, right, plan.risk))


def epsilon_of_runs(claim: Claim, accuracies: Sequence[float], risk: float) -> float:
    """Return the epsilon that the accuracies of independent runs show."""
    return _bound_epsilon(claim, lambda run: contradicted_by_runs(run, accuracies, risk))


def epsilon_if_apart(claim: Claim, wrong: int, canaries: int, risk: float) -> float:
    """Return the epsilon that wrong guesses about all canaries show, if noise is drawn apart for each."""
    from scipy.special import betaincinv  # noqa: PLC0415 - most runs need not wait for SciPy

    least = 1.0 if wrong == canaries else float(betaincinv(wrong + 1, canaries - wrong, 1.0 - risk))
    return _bound_epsilon(claim, lambda run: 1.0 - least > run.accuracy)


def _bound_epsilon(claim: Claim, is_contradicted: Callable[[Claim], bool]) -> float:
    low, high = math.log(_LEAST_FACTOR), math.log(_MOST_FACTOR)
    if not is_contradicted(claim.with_noise(_MOST_FACTOR)):
        return 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_contradicted(claim.with_noise(math.exp(middle))) else (middle, high)
    return claim.with_noise(math.exp(high)).epsilon


def find_critical_count(claim: Claim, plan: Plan) -> int:
    """Return the least number of right guesses in a run that contradicts a claim; guesses + 1 if none does."""
    low, high = plan.guesses // 2, plan.guesses + 1
    while low < high:
        middle = (low + high) // 2
        if contradicts(claim, plan.canaries, plan.guesses, middle, plan.risk):
            high = middle
        else:
            low = middle + 1
    return high


def simulate_runs(
    claim: Claim, canaries: int, runs: int, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return coins and scores (draws, runs, canaries) of canaries of the largest size that do not overlap."""
    shape = (_DRAWS, runs, canaries)
    included = generator.random(shape) < 1 / 2
    scores = generator.standard_normal(shape)
    deviation = math.sqrt(sum(part.steps * part.noise_multiplier**2 for part in claim.spent))
    for part in claim.spent:
        steps = generator.binomial(part.steps, part.sampling_rate, shape) if part.sampling_rate < 1 else part.steps
        scores += included * steps / deviation
    return included, scores


def count_right(included: NDArray[np.bool_], scores: NDArray[np.float64], guesses: int) -> NDArray[np.int64]:
    """Return right guesses of each draw, where half name the highest scores and half the lowest."""
    ordered = np.take_along_axis(included, scores.argsort(-1), -1)
    half = guesses // 2
    return (~ordered[..., :half]).sum(-1) + ordered[..., -half:].sum(-1)


def accuracies_of(included: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return accuracies (draws, runs) of guesses about all canaries, by the mean score."""
    return ((scores > scores.mean(-1, keepdims=True)) == included).mean(-1)


def _gap(included: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    included_scores, excluded_scores = scores[included], scores[~included]
    if min(len(included_scores), len(excluded_scores)) < 2:  # noqa: PLR2004 - a standard deviation needs two values
        return 0.0
    deviation = math.sqrt((included_scores.var(ddof=1) + excluded_scores.var(ddof=1)) / 2)
    return float(included_scores.mean() - excluded_scores.mean()) / deviation if deviation else math.inf
