"""Bounds on attackers against the Gaussian mechanism, whose best attack has a closed form, and simulated attacks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, norm

from fedsim.privacy import bounds
from fedsim.privacy.accounting import Spent, gaussian_delta, rdp

RATES = st.floats(0.001, 0.999)


@given(st.floats(0.2, 4.0), st.floats(0.0, 6.0), RATES)
def test_the_best_test_of_the_gaussian_mechanism_stays_below(mu, epsilon, false_positives) -> None:
    best = float(norm.cdf(norm.ppf(false_positives) + mu))
    assert best <= bounds.membership_ceiling(epsilon, gaussian_delta(mu, epsilon), false_positives) + 1e-9


def test_the_best_test_touches_the_ceiling_and_its_mirror() -> None:
    mu, epsilon = 1.0, 1.5
    delta = gaussian_delta(mu, epsilon)
    touching = float(norm.sf(mu / 2 + epsilon / mu))  # where the likelihood ratio is e^epsilon
    assert bounds.membership_ceiling(epsilon, delta, touching) == pytest.approx(norm.cdf(norm.ppf(touching) + mu))
    mirrored = 1.0 - float(norm.cdf(norm.ppf(touching) + mu))
    assert bounds.membership_ceiling(epsilon, delta, mirrored) == pytest.approx(1.0 - touching)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 1000.0])
def test_whoever_accuses_everybody_finds_all_and_no_more(epsilon) -> None:
    assert bounds.membership_ceiling(epsilon, 0.01, 1.0) == 1.0


@given(st.floats(0.0, 5.0), st.floats(0.0, 0.1))
def test_the_advantage_is_the_largest_difference(epsilon, delta) -> None:
    rates = [step / 2000 for step in range(2001)]
    largest = max(bounds.membership_ceiling(epsilon, delta, rate) - rate for rate in rates)
    assert largest == pytest.approx(bounds.advantage_ceiling(epsilon, delta), abs=2e-3 * math.exp(epsilon))


@pytest.mark.parametrize("candidates", [2, 10])
def test_a_guess_among_candidates_stays_below_every_ceiling(candidates) -> None:
    """Orthogonal candidates of norm one, Gaussian noise, and the most likely candidate as the guess."""
    sigma, draws, generator = 1.0, 50_000, torch.Generator().manual_seed(1)
    seen = sigma * torch.randn(draws, candidates, generator=generator)
    seen[:, 0] += 1.0
    success = float((seen.argmax(1) == 0).double().mean())
    prior = 1 / candidates
    exact = bounds.gaussian_reconstruction_ceiling(sigma, 1, prior)
    assert prior < success <= exact
    for epsilon in (0.5, 1.0, 2.0):
        assert exact <= bounds.reconstruction_ceiling(epsilon, gaussian_delta(1 / sigma, epsilon), prior) + 1e-9
    for order in (1.5, 2.0, 8.0):
        assert exact <= bounds.renyi_reconstruction_ceiling(order, rdp([Spent(sigma, 1.0, 1)], order), prior) + 1e-9


def test_a_guess_of_two_reaches_the_ceiling_where_the_candidates_are_opposite_events() -> None:
    """The event that the noise lies above a threshold has probability kappa without the record: nothing beats it."""
    sigma, prior, generator = 2.0, 0.1, torch.Generator().manual_seed(2)
    threshold = sigma * float(norm.isf(prior))
    drawn = 1.0 + sigma * torch.randn(200_000, generator=generator, dtype=torch.float64)
    found = float((drawn > threshold).double().mean())
    assert found == pytest.approx(bounds.gaussian_reconstruction_ceiling(sigma, 1, prior), abs=3e-3)


@pytest.mark.parametrize(("sigma", "steps", "prior"), [(1.0, 1, 0.1), (2.0, 10, 0.01), (5.0, 10, 0.3)])
def test_the_simulated_ceiling_is_the_closed_form_from_above(sigma, steps, prior) -> None:
    exact = bounds.gaussian_reconstruction_ceiling(sigma, steps, prior)
    found = bounds.sampled_reconstruction_ceiling(sigma, 1.0, steps, prior, torch.Generator().manual_seed(3))
    assert exact <= found <= exact + 0.03


def test_sampling_lowers_the_ceiling_and_too_few_draws_say_nothing() -> None:
    generator = torch.Generator().manual_seed(4)
    found = [bounds.sampled_reconstruction_ceiling(1.0, q, 10, 0.1, generator) for q in (0.01, 0.1, 1.0)]
    assert found == sorted(found)
    assert 0.1 <= found[0] < 0.15
    assert bounds.sampled_reconstruction_ceiling(1.0, 0.1, 1, 0.999, generator, draws=100) == 1.0


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 0.5, 1), (1.0, 1.0, 1), (2.0, 0.3, 3)])
def test_simulated_ratios_are_likelihood_ratios(sigma, rate, steps) -> None:
    """Without the record the mean of p / q is 1, and with it the mean of q / p, whatever the noise."""
    draws, generator = 100_000, torch.Generator().manual_seed(6)
    without = bounds._log_ratios(sigma, 0.0, rate, steps, draws, generator).exp()
    with_it = bounds._log_ratios(sigma, rate, rate, steps, draws, generator).neg().exp()
    for ratios in (without, with_it):
        assert float(ratios.mean()) == pytest.approx(1.0, abs=4 * float(ratios.std()) / draws**0.5)
        assert float(ratios.std()) > 0.1


def test_edges() -> None:
    assert bounds.membership_ceiling(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert bounds.membership_ceiling(1e9, 0.0, 0.3) == 1.0
    assert bounds.reconstruction_ceiling(0.0, 0.0, 0.1) == pytest.approx(0.1)
    assert bounds.reconstruction_ceiling(5.0, 0.0, 0.1) == 1.0
    assert bounds.renyi_reconstruction_ceiling(2.0, 1.0, 0.0) == 0.0


def test_the_threshold_is_the_order_statistic_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios 1 to 1000 with and without the record: as many lie at or above the k-th largest as its rank says."""
    draws, prior, risk = 1000, 0.1, 0.005
    ratios = torch.arange(1.0, draws + 1, dtype=torch.float64)
    monkeypatch.setattr(bounds, "_log_ratios", lambda *_: ratios)
    # Fewer than k of 1000 draws exceed what is exceeded with probability `prior`, with probability 1 - risk.
    rank = next(k for k in range(1, draws) if binom.sf(k - 1, draws, prior) <= risk)
    found = bounds.sampled_reconstruction_ceiling(1.0, 0.5, 1, prior, torch.Generator(), draws=draws)
    assert found == pytest.approx(beta.ppf(1 - risk, rank + 1, draws - rank), rel=1e-12)
