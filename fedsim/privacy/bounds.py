"""Limits that a guarantee sets an attacker: the best membership test and the best reconstruction.

    membership      TPR <= e^eps FPR + delta  and  TPR <= 1 - e^-eps (1 - delta - FPR)
                    (Kairouz, Oh, Viswanath 2015, arXiv 1311.0776, theorem 2.1)
    reconstruction  P(close enough) <= min(e^eps kappa + delta, ...), kappa the chance of the best guess without the
                    update (Balle, Cherubin, Hayes 2022, arXiv 2201.04845, theorems 2 and 3), and for Gaussian noise the
                    tighter blow-up of kappa under the mechanism itself
                    (Hayes, Mahloujifar, Balle 2023, arXiv 2302.07225, theorem 2)

All bounds are about one unit of the guarantee, such as one record; neighbours add or remove it.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

_STANDARD = NormalDist()


def membership_ceiling(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """Return the largest true positive rate in [0, 1] of any membership test at this false positive rate."""
    straight = math.exp(min(epsilon, 700.0)) * false_positive_rate + delta
    mirrored = 1.0 - math.exp(-epsilon) * (1.0 - delta - false_positive_rate)
    return min(1.0, straight, mirrored)


def advantage_ceiling(epsilon: float, delta: float) -> float:
    """Return the largest difference of true and false positive rate: (e^eps - 1 + 2 delta) / (e^eps + 1)."""
    return math.tanh(epsilon / 2) * (1.0 - delta) + delta


def reconstruction_ceiling(epsilon: float, delta: float, prior: float) -> float:
    """Return the largest probability of a reconstruction within a given error.

    Args:
        epsilon: epsilon of the guarantee.
        delta: delta of the guarantee.
        prior: probability that the best guess without the update is within that error; 1/n for one of n equally
            likely records and an error that tells them apart.
    """
    return min(1.0, math.exp(min(epsilon, 700.0)) * prior + delta)


def renyi_reconstruction_ceiling(order: float, divergence: float, prior: float) -> float:
    """Return this ceiling from a Renyi divergence of an order above 1: (prior e^divergence)^((order - 1) / order)."""
    if prior == 0.0:
        return 0.0
    exponent = (math.log(prior) + divergence) * (order - 1.0) / order
    return math.exp(min(0.0, exponent))


def gaussian_reconstruction_ceiling(noise_multiplier: float, steps: int, prior: float) -> float:
    """Return this ceiling for Gaussian noise without sampling: Phi(Phi^-1(prior) + sqrt(steps) / noise_multiplier).

    Args:
        noise_multiplier: standard deviation over sensitivity, above 0.
        steps: number of noisy steps.
        prior: as in `reconstruction_ceiling`, in (0, 1).
    """
    return _STANDARD.cdf(_STANDARD.inv_cdf(prior) + math.sqrt(steps) / noise_multiplier)


def sampled_reconstruction_ceiling(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    prior: float,
    generator: torch.Generator,
    *,
    draws: int = 100_000,
    confidence: float = 0.99,
) -> float:
    """Return an upper bound of this ceiling for Gaussian noise on Poisson samples, by simulation.

    By Neyman and Pearson the best event of probability `prior` without the record is a high likelihood ratio of the
    steps. The threshold is low enough, and the probability with the record high enough, that the bound fails with
    probability at most 1 - `confidence`, half of it for each.

    Args:
        noise_multiplier: standard deviation over sensitivity, above 0.
        sampling_rate: probability that the record is in a step.
        steps: number of steps.
        prior: as in `reconstruction_ceiling`, in (0, 1).
        generator: source of the simulation's draws.
        draws: number of simulated runs, with and without the record.
        confidence: probability that the result is an upper bound.
    """
    from scipy.stats import beta  # noqa: PLC0415 - most runs need not wait for SciPy

    risk = (1.0 - confidence) / 2.0
    without = _log_ratios(noise_multiplier, 0.0, sampling_rate, steps, draws, generator)
    with_it = _log_ratios(noise_multiplier, sampling_rate, sampling_rate, steps, draws, generator)
    rank = _rank(draws, prior, risk)
    if rank > draws:
        return 1.0
    threshold = without.kthvalue(draws - rank + 1).values
    above = int((with_it >= threshold).sum())
    return 1.0 if above == draws else float(beta.ppf(1.0 - risk, above + 1, draws - above))


def _log_ratios(
    deviation: float, drawn_rate: float, rate: float, steps: int, draws: int, generator: torch.Generator
) -> torch.Tensor:
    """Return log likelihood ratios (draws,) of runs with the record in each step with probability `drawn_rate`."""
    total = torch.zeros(draws, dtype=torch.float64)
    for _ in range(steps):
        takes_part = torch.rand(draws, dtype=torch.float64, generator=generator) < drawn_rate
        seen = takes_part + deviation * torch.randn(draws, dtype=torch.float64, generator=generator)
        shift = math.log(rate) + (2.0 * seen - 1.0) / (2.0 * deviation**2)
        rest = torch.full_like(shift, math.log1p(-rate) if rate < 1.0 else -math.inf)
        total += torch.logaddexp(shift, rest)
    return total


def _rank(draws: int, prior: float, risk: float) -> int:
    """Return k such that the k-th largest draw is exceeded with probability at least `prior`, up to `risk`.

    The probability above the k-th largest is Beta(k, draws - k + 1); more draws above make it larger.
    """
    from scipy.stats import beta  # noqa: PLC0415 - most runs need not wait for SciPy

    low, high = 1, draws + 1
    while low < high:
        middle = (low + high) // 2
        if float(beta.ppf(risk, middle, draws - middle + 1)) >= prior:
            high = middle
        else:
            low = middle + 1
    return low
