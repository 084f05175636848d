"""Detect the used rows of a gradient: nonzero rows, or under noise the rows with outlying norms.

The threshold depends on the unused rows. In the gradient of a table they are zero, or noise of equal variance and known
distribution: use `find_fired_rows`. In the gradient of an output layer they are p h^T, with norms that differ by orders
of magnitude: use `outstanding_rows`, which compares logarithms of norms with a higher threshold.
"""

from __future__ import annotations

import math

from torch import Tensor

from attacks.core.tolerances import TINY

_MOST_ZERO = 0.5  # share of zero rows above which a gradient is free of noise: most rows of tables are unused
_DEVIATIONS = 8.0  # robust ones; logarithms of the norms of unused rows are not normally distributed in the tail
_TWICE = math.log(2.0)  # a row used by a single example of many still has more than twice the usual norm


def noise_variance(gradient: Tensor) -> float:
    """Return the variance per entry of rows (..., w) that hold noise alone; 0 if some row is exactly zero.

    The estimate uses the median of the rows' squared norms, so fewer than half of the rows may hold more than noise.
    """
    from scipy.stats import chi2  # noqa: PLC0415 - takes long to import

    squares = gradient.double().square().sum(-1)
    if bool((squares == 0).any()):
        return 0.0
    return float(squares.median()) / float(chi2.median(gradient.shape[-1]))


def find_fired_rows(gradient: Tensor) -> Tensor:
    """Return the mask of rows of a gradient (..., w) above the noise, boolean (...).

    The threshold is exceeded by noise in about one of all rows.
    """
    from scipy.stats import chi2  # noqa: PLC0415 - takes long to import

    squares, variance = gradient.double().square().sum(-1), noise_variance(gradient)
    return squares > variance * float(chi2.isf(1.0 / squares.numel(), gradient.shape[-1]))


def outstanding_rows(gradient: Tensor) -> Tensor:
    """Return the indices of the rows of (V, d) with outlying norms.

    If most rows are exactly zero, these are the nonzero rows. Otherwise they are the rows with a norm above twice the
    median and a logarithm of the norm more than 8 robust standard deviations above the median.
    """
    norms = gradient.double().norm(dim=1)
    if has_zero_rows(gradient):
        return norms.nonzero()[:, 0]
    logs = norms.clamp_min(TINY).log()
    excess = logs - logs.median()
    spread = 1.4826 * excess.abs().median()
    return (excess > max(_DEVIATIONS * float(spread), _TWICE)).nonzero()[:, 0]


def has_zero_rows(gradient: Tensor) -> bool:
    """Return whether most rows of (V, d) are exactly zero, so that the gradient has no noise."""
    return float((gradient == 0).all(1).double().mean()) > _MOST_ZERO
