"""Trade-offs of noisy steps, beside closed forms and beside each other."""

import math

import pytest
from scipy.stats import norm

from fedsim.privacy.accounting import Spent, epsilon, gaussian_delta
from fedsim.privacy.claims import Claim


def test_one_gaussian_step_has_the_trade_off_of_two_normal_laws() -> None:
    """At mu = 1 half of the false alarms leave Phi(-1) of the wrong guesses; a check value of the Gaussian curve."""
    claim = Claim((Spent(2.0, 1.0, 4),), 1e-5)
    assert claim.mu == pytest.approx(1.0)
    for right in (0.01, 0.5, 0.9):
        assert claim.least_wrong(right) == pytest.approx(norm.cdf(norm.ppf(right) - 1.0), rel=1e-9)
    assert claim.accuracy == pytest.approx(norm.cdf(0.5), rel=1e-9)  # the best guess about a coin
    assert claim.epsilon == pytest.approx(epsilon(claim.spent, 1e-5).value)


def test_steps_of_units_that_are_left_out_by_chance_allow_more_than_the_exact_law() -> None:
    """One step with q: the exact trade-off by Neyman and Pearson is never below the bound."""
    q, sigma = 0.2, 1.0
    claim = Claim((Spent(sigma, q, 1),), 1e-5)
    for threshold in (0.0, 0.5, 1.0, 2.0):
        right, wrong = (1 - q) * norm.sf(threshold) + q * norm.sf(threshold - 1 / sigma), norm.sf(threshold)
        assert claim.least_wrong(right) <= wrong
    assert claim.least_wrong(1.0) > 0.9
    most = 0.5 * (1 + q * gaussian_delta(1 / sigma, 0.0))  # its total variation is q times that of whole steps
    assert most <= claim.accuracy < most + 0.01  # half of what the error of the curve adds to delta(0)


def test_rates_just_below_one_are_near_the_exact_curve() -> None:
    exact, sampled = Claim((Spent(2.0, 1.0, 5),), 1e-5), Claim((Spent(2.0, 1 - 1e-9, 5),), 1e-5)
    for right in (0.2, 0.6, 0.95):
        assert sampled.least_wrong(right) <= exact.least_wrong(right)
        # Chords of a grid of 0.05 and an error of epsilon below 0.03 lie that much below the curve.
        assert sampled.least_wrong(right) > 0.9 * exact.least_wrong(right)


def test_mixed_steps_fall_back_on_renyi_divergences() -> None:
    exact, mixed = Claim((Spent(2.0, 1.0, 5),), 1e-5), Claim((Spent(2.0, 1.0, 4), Spent(2.0, 1 - 1e-9, 1)), 1e-5)
    for right in (0.2, 0.6, 0.95):
        assert exact.least_wrong(right) / 4 < mixed.least_wrong(right) <= exact.least_wrong(right)


def test_more_noise_is_a_stronger_claim() -> None:
    claim = Claim((Spent(1.0, 1.0, 3), Spent(2.0, 1.0, 2)), 1e-5)
    louder = claim.with_noise(2.0)
    assert louder.mu == pytest.approx(claim.mu / 2)
    assert louder.epsilon < claim.epsilon
    assert louder.least_wrong(0.5) > claim.least_wrong(0.5)
    assert claim.mu == pytest.approx(math.sqrt(3 + 2 / 4))
