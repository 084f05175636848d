"""Bounds of audits: check values, false contradictions where a claim is kept, and which lies are caught."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, norm

from fedsim.privacy.accounting import Spent, gaussian_delta, gaussian_epsilon
from fedsim.privacy.claims import Claim
from fedsim.privacy.one_run import (
    Plan,
    contradicted_by_runs,
    contradicts,
    epsilon_if_apart,
    epsilon_of_one_run,
    epsilon_of_runs,
    evaluate_runs,
    find_critical_count,
    plan_audit,
)

NOISES = (1.0, 2.0, 4.0)  # of five steps: epsilon 11.48, 4.98 and 2.26 at 1e-5
CANARIES = 200


def of_noise(noise: float) -> Claim:
    return Claim((Spent(noise, 1.0, 5),), 1e-5)


PLAN = Plan(700, 200, 1, 0.95, 0.0, 0.0)


@pytest.mark.parametrize(("noise", "right", "epsilon"), [(1.0, 197, 5.65), (2.0, 168, 2.24), (4.0, 135, 0.777)])
def test_counts_show_what_an_independent_implementation_of_the_recursion_shows(
    noise: float, right: int, epsilon: float
) -> None:
    assert epsilon_of_one_run(of_noise(noise), PLAN, right) == pytest.approx(epsilon, abs=0.005)


@pytest.mark.parametrize(("canaries", "guesses", "most"), [(700, 200, 7.65), (700, 350, 9.33), (2000, 1000, 11.05)])
def test_there_is_a_most_that_can_be_shown(canaries: int, guesses: int, most: float) -> None:
    plan = replace(PLAN, canaries=canaries, guesses=guesses)
    assert epsilon_of_one_run(of_noise(1.0), plan, guesses) == pytest.approx(most, abs=0.005)


def test_by_hand_one_guess_about_one_canary() -> None:
    """It is right with a chance of at most Phi(mu / 2): no risk below that contradicts it, any risk above does."""
    claim = of_noise(2.0)
    chance = float(norm.cdf(claim.mu / 2))
    assert not contradicts(claim, 1, 1, 1, chance - 1e-6)
    assert contradicts(claim, 1, 1, 1, chance + 1e-6)


def test_a_sampled_claim_is_held_against_its_own_curve() -> None:
    """Of 142 guesses fewer contradict it than contradict Gaussian noise of the same epsilon."""
    sampled = Claim((Spent(1.0, 0.1, 50),), 1e-5)
    mu = brentq(lambda mu: gaussian_epsilon(mu, 1e-5) - sampled.epsilon, 0.5, 2.0)
    gaussian = Claim((Spent(1 / mu, 1.0, 1),), 1e-5)
    plan = replace(PLAN, canaries=500, guesses=142)
    assert (find_critical_count(sampled, plan), find_critical_count(gaussian, plan)) == (137, 140)


def test_runs_are_bounded_by_markov() -> None:
    claim = of_noise(2.0)
    best = float(norm.cdf(claim.mu / 2))
    accuracies = [best / 0.05 ** (1 / 20)] * 20
    assert contradicted_by_runs(claim, [accuracy + 1e-6 for accuracy in accuracies], 0.05)
    assert not contradicted_by_runs(claim, [accuracy - 1e-6 for accuracy in accuracies], 0.05)
    assert epsilon_of_runs(claim, accuracies, 0.05) == pytest.approx(claim.epsilon, rel=1e-3)  # its search ends there


def test_noise_that_is_drawn_apart_is_bounded_as_clopper_and_pearson_do() -> None:
    claim = of_noise(2.0)
    least = float(beta.ppf(0.95, 61, 140))
    assert epsilon_if_apart(claim, 60, 200, 0.05) == pytest.approx(
        gaussian_epsilon(-2 * float(norm.ppf(least)), 1e-5), rel=1e-3
    )
    assert epsilon_if_apart(claim, 100, 200, 0.05) == 0.0
    assert epsilon_if_apart(claim, 200, 200, 0.05) == 0.0


def in_and_out(generator: np.random.Generator, runs: int) -> NDArray[np.bool_]:
    return generator.random((runs, CANARIES)) < 1 / 2


def gaussian(included: NDArray[np.bool_], claim: Claim, generator: np.random.Generator) -> NDArray[np.float64]:
    return claim.mu * included + generator.standard_normal(included.shape)


def shared_coin(included: NDArray[np.bool_], claim: Claim, generator: np.random.Generator) -> NDArray[np.float64]:
    """With a small chance answer truly about all canaries, up to randomised response, and else by coins alone.

    The chance is the largest with which the trade-off of each canary is within the claim.
    """
    level = {1.0: 5.9, 2.0: 2.4, 4.0: 1.1}[claim.spent[0].noise_multiplier]
    epsilons = np.linspace(0.0, level - 1e-3, 400)
    excess = (math.exp(level) - np.exp(epsilons)) / (1 + math.exp(level))
    chance = min(gaussian_delta(claim.mu, float(one)) / two for one, two in zip(epsilons, excess, strict=True))
    runs = len(included)
    is_true = generator.random(included.shape) < 1 / (1 + math.exp(-level))
    answers = np.where(is_true, included, ~included)
    coins = generator.random(included.shape) < 1 / 2
    speaks = generator.random((runs, 1)) < chance
    return np.where(speaks, answers, coins) + 1e-6 * generator.standard_normal(included.shape)


@pytest.mark.parametrize("mechanism", [gaussian, shared_coin])
@pytest.mark.parametrize("noise", NOISES)
def test_what_keeps_its_claim_is_rarely_contradicted(noise: float, mechanism) -> None:
    """200 audits of one run, and 20 of ten; 0.05 and three standard errors of either number of trials."""
    claim, generator = of_noise(noise), np.random.default_rng(7)
    plan = Plan(CANARIES, 100, 1, 0.95, 0.0, 0.0)
    most = find_critical_count(claim, plan)
    included = in_and_out(generator, 200)
    scores = mechanism(included, claim, generator)
    ordered = np.take_along_axis(included, scores.argsort(-1), -1)
    right = (~ordered[:, :50]).sum(-1) + ordered[:, -50:].sum(-1)
    assert (right >= most).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    accuracies = ((scores > scores.mean(-1, keepdims=True)) == included).mean(-1).reshape(20, 10)
    contradicted = [contradicted_by_runs(claim, list(ten), 0.05) for ten in accuracies]
    assert np.mean(contradicted) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20)


def test_who_counts_canaries_as_independent_calls_the_shared_coin_a_liar() -> None:
    """Why the tighter bound decides nothing: of a mechanism that keeps its claim it is wrong in over 5 % of audits."""
    claim, generator = of_noise(2.0), np.random.default_rng(8)
    included = in_and_out(generator, 200)
    scores = shared_coin(included, claim, generator)
    wrong = ((scores > 0.5) != included).sum(-1)
    least = brentq(lambda count: beta.ppf(0.95, count + 1, CANARIES - count) - (1 - claim.accuracy), 0, CANARIES / 2)
    assert (wrong < least).mean() > 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_plan_says_whether_half_of_the_noise_would_be_noticed() -> None:
    quiet = plan_audit(of_noise(4.0), 700, 1, 0.95, np.random.default_rng(0), None)
    assert quiet.power > 0.8
    loud = plan_audit(of_noise(1.0), 200, 1, 0.95, np.random.default_rng(0), None)
    assert loud.power == 0.0
    assert loud.max_epsilon < of_noise(1.0).epsilon
    runs = plan_audit(of_noise(1.0), 200, 100, 0.95, np.random.default_rng(0), None)
    assert runs.power > 0.8
    assert runs.max_epsilon > of_noise(1.0).epsilon
    assert plan_audit(of_noise(4.0), 700, 1, 0.95, np.random.default_rng(0), 100).guesses == 100


def test_half_of_the_noise_is_noticed_as_often_as_the_plan_says() -> None:
    claim, generator = of_noise(2.0), np.random.default_rng(5)
    plan = plan_audit(claim, 700, 1, 0.95, generator, None)
    caught = 0
    for _ in range(100):
        included = generator.random((1, 700)) < 1 / 2
        scores = 2 * claim.mu * included + generator.standard_normal(included.shape)
        caught += evaluate_runs(claim, plan, included, scores).epsilon > claim.epsilon
    assert caught / 100 == pytest.approx(plan.power, abs=0.15)  # three standard errors of 100 and 400 trials


def test_units_that_are_left_out_by_chance_have_no_tighter_bound() -> None:
    claim, generator = Claim((Spent(1.0, 0.5, 2),), 1e-5), np.random.default_rng(3)
    plan = replace(PLAN, canaries=40, guesses=20)
    included = generator.random((1, 40)) < 1 / 2
    outcome = evaluate_runs(claim, plan, included, included + 0.01 * generator.standard_normal(included.shape))
    assert outcome.apart is None
    assert outcome.right == 20
    assert outcome.epsilon > 0.0
