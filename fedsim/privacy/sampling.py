"""Test of batch sizes against Poisson sampling: each record is in each batch with probability q, independently.

Sizes are then binomial with variance N q (1 - q). Batches of a shuffled pass have equal sizes, except the last.
The sum of squared deviations over N q (1 - q) is chi-squared, a degree of freedom per batch, if batches are large.
If few records are expected its tails are longer, and a chi-squared bound would reject honest batches. Chernoff's
bound holds for all:

    P(S >= s) <= min over t > 0 of E[exp(t d^2)]^T e^(-t s), and P(S <= s) with t < 0,

with d a deviation over sqrt(N q (1 - q)), and S the sum of T of their squares. The last, short batch of a pass can make
up for the variance that is missing; so the most frequent size is tested too, by binomial tails, added up over sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_ALARMS = 1e-6
"""Of all logs of true Poisson sampling, at most this share is called something else."""

_TILTS = np.geomspace(1e-3, 20.0, 20)  # t of Chernoff's bound: each is valid, and the best t is near a grid point
_TESTS = 3  # too even, too uneven, a size too frequent


@dataclass(frozen=True)
class SamplingClaim:
    """Batches that are said to be drawn by Poisson sampling.

    Attributes:
        sizes: records of each batch, as logged.
        records: N, from which all are drawn.
        rate: q in (0, 1), the chance of each record to be in a batch.
    """

    sizes: Sequence[int]
    records: int
    rate: float

    @property
    def variance(self) -> float:
        """Of a size, in records squared."""
        return self.records * self.rate * (1.0 - self.rate)

    @property
    def spread(self) -> float:
        """Mean squared deviation of sizes over its expectation: about 1 for Poisson sampling, about 0 for passes."""
        deviations = np.asarray(self.sizes) - self.records * self.rate
        return float(np.square(deviations).mean()) / self.variance


def chance(claim: SamplingClaim) -> float:
    """Return an upper bound, in [0, 1], of the chance of sizes that lie as far from Poisson sampling as these."""
    from scipy.stats import binom  # noqa: PLC0415 - most runs need not wait for SciPy

    logs = binom.logpmf(np.arange(claim.records + 1), claim.records, claim.rate)
    return min(1.0, _TESTS * min(_spread_p_value(claim, logs), _size_p_value(claim, logs)))


def sampling_fault(claim: SamplingClaim) -> str:
    """Return in a sentence why batches are no Poisson samples; empty where nothing was noticed."""
    likelihood = chance(claim)
    if likelihood >= FALSE_ALARMS:
        return ""
    return (
        f"batches are not drawn by Poisson sampling: the variance of {len(claim.sizes)} sizes is {claim.spread:.2g} of "
        f"N q (1 - q) = {claim.variance:.4g}, and the most frequent is {int(np.bincount(claim.sizes).argmax())}; "
        f"by Poisson sampling that has a chance below {likelihood:.0e}"
    )


def fewest_sizes(records: int, rate: float) -> int:
    """Return how many batches a log needs at least, for batches of a single size to be noticed."""
    from scipy.stats import binom  # noqa: PLC0415 - most runs need not wait for SciPy

    likeliest = binom.pmf(np.arange(records + 1), records, rate).max()
    return math.ceil(math.log(FALSE_ALARMS / _TESTS / (records + 1)) / math.log(likeliest))


def _spread_p_value(claim: SamplingClaim, logs: NDArray[np.float64]) -> float:
    squares = np.square(np.arange(claim.records + 1) - claim.records * claim.rate) / claim.variance
    tilts = (*_TILTS, *-_TILTS)
    bounds = [float(np.logaddexp.reduce(logs + tilt * squares)) - tilt * claim.spread for tilt in tilts]
    return math.exp(len(claim.sizes) * min(0.0, *bounds))


def _size_p_value(claim: SamplingClaim, logs: NDArray[np.float64]) -> float:
    from scipy.stats import binom  # noqa: PLC0415 - most runs need not wait for SciPy

    largest = int(np.bincount(claim.sizes).max())
    return float(binom.sf(largest - 1, len(claim.sizes), np.exp(logs)).sum())
