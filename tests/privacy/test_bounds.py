"""Bounds on attackers against the Gaussian mechanism, whose best attack has a closed form, and simulated attacks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedsim.privacy import bounds
from fedsim.privacy.accounting import gaussian_delta

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


@pytest.mark.parametrize("candidates", [2, 10])
def test_a_guess_among_candidates_stays_below_the_ceiling_of_every_epsilon(candidates) -> None:
    """Orthogonal candidates of norm one, Gaussian noise, and the most likely candidate as the guess."""
    sigma, draws, generator = 1.0, 50_000, torch.Generator().manual_seed(1)
    seen = sigma * torch.randn(draws, candidates, generator=generator)
    seen[:, 0] += 1.0
    success = float((seen.argmax(1) == 0).double().mean())
    prior = 1 / candidates
    exact = float(norm.cdf(norm.ppf(prior) + 1 / sigma))  # of the mechanism itself, arXiv 2302.07225, theorem 2
    assert prior < success <= exact
    for epsilon in (0.5, 1.0, 2.0):
        assert exact <= bounds.reconstruction_ceiling(epsilon, gaussian_delta(1 / sigma, epsilon), prior) + 1e-9


def test_edges() -> None:
    assert bounds.membership_ceiling(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert bounds.membership_ceiling(1e9, 0.0, 0.3) == 1.0
    assert bounds.reconstruction_ceiling(0.0, 0.0, 0.1) == pytest.approx(0.1)
    assert bounds.reconstruction_ceiling(5.0, 0.0, 0.1) == 1.0
