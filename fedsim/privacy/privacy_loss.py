"""Delta of subsampled steps, from the composed privacy loss distribution.

The loss of a step is discretised and composed by Fourier transforms with a known error (Gopi, Lee, Wutschitz 2021,
arXiv 2106.02848, theorem 5.4): delta(eps) is at most the grid's delta at eps - error, plus a small term. Opacus
provides the distribution and its composition, but epsilon at a single delta only; this module computes the whole curve.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.accounting import Spent, epsilon_of_order, rdp

_DELTA_ERROR = 1e-10
_RELATIVE_ERROR, _LEAST_ERROR = 1e-3, 1e-3  # of epsilon
_ORDERS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0)  # integer orders are fast
_LARGEST_LOSS = 100.0  # a larger grid is slow and useless for an audit


def delta_bounds(spent: Sequence[Spent], epsilons: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return upper bounds of delta, each in [0, 1].

    Args:
        spent: steps, each with a sampling rate below 1 and some noise.
        epsilons: at least 0, shape (N,).

    Returns:
        Shape (N,); None where the loss is too large for a grid.
    """
    from fedsim.core.foreign.opacus import (  # noqa: PLC0415 - takes seconds to import
        Domain,
        PoissonSubsampledGaussianPRV,
        TruncatedPrivacyRandomVariable,
        compose_heterogeneous,
        discretize,
    )

    steps = sum(part.steps for part in spent)
    single = [Spent(part.noise_multiplier, part.sampling_rate, 1) for part in spent]
    largest = max(
        _loss(spent, _DELTA_ERROR / 4), *(_loss([distribution], _DELTA_ERROR / (8 * steps)) for distribution in single)
    )
    if not largest < _LARGEST_LOSS:
        return None
    error = max(_LEAST_ERROR, _RELATIVE_ERROR * largest)
    width = largest + 3.0
    grid = Domain.create_aligned(-width, width, error / math.sqrt(steps * math.log(12 / _DELTA_ERROR) / 2))
    laws = [PoissonSubsampledGaussianPRV(part.sampling_rate, part.noise_multiplier) for part in spent]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow where a loss has no mass
            losses = [discretize(TruncatedPrivacyRandomVariable(law, grid.t_min, grid.t_max), grid) for law in laws]
            total = compose_heterogeneous(losses, [part.steps for part in spent])
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
    return np.clip(_deltas(total.domain.ts, total.pmf, epsilons - error) + _DELTA_ERROR, 0.0, 1.0)


def _loss(spent: Sequence[Spent], delta: float) -> float:
    """Return an epsilon at delta, used as the range of the grid."""
    return min(epsilon_of_order(order, rdp(spent, order), delta) for order in _ORDERS)


def _deltas(
    losses: NDArray[np.float64], masses: NDArray[np.float64], epsilons: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return E max(0, 1 - e^(eps - loss)) for ascending losses."""
    first = np.searchsorted(losses, epsilons)
    tails = [np.append(np.cumsum(part[::-1])[::-1], 0.0)[first] for part in (masses, masses * np.exp(-losses))]
    return tails[0] - np.exp(epsilons) * tails[1]
