"""Which rows of a gradient were used: those that are not zero, or else those that stand out of the other ones.

What the unused rows hold decides how far a row must stand out. In the gradient of a table they hold nothing, or noise
of one variance in every entry, whose law is known: `fired_rows`. In the gradient of an output layer they hold p h^T,
whose size differs by orders from row to row: `outstanding_rows` compares norms in logarithms, and asks more.
"""

from __future__ import annotations

import math

from torch import Tensor

from attacks.core.tolerances import TINY

_MOST_ZERO = 0.5  # unused rows are the most, in a table and in a vocabulary
_DEVIATIONS = 8.0  # robust ones; the logarithms of the norms of unused rows have no tail of a normal distribution
_TWICE = math.log(2.0)  # a row of one example out of many still has more than twice the usual norm


def noise_variance(gradient: Tensor) -> float:
    """Return the variance of an entry of rows (..., w) that hold noise alone: 0 where a row is exactly zero.

    It is read off the median of the rows' squared lengths, so fewer than half of the rows may hold more than noise.
    """
    from scipy.stats import chi2  # noqa: PLC0415 - takes long to import

    squares = gradient.double().square().sum(-1)
    if bool((squares == 0).any()):
        return 0.0
    return float(squares.median()) / float(chi2.median(gradient.shape[-1]))


def fired_rows(gradient: Tensor) -> Tensor:
    """Return which rows of a gradient (..., w) hold more than noise would reach once in all rows, boolean (...)."""
    from scipy.stats import chi2  # noqa: PLC0415 - takes long to import

    squares, variance = gradient.double().square().sum(-1), noise_variance(gradient)
    return squares > variance * float(chi2.isf(1.0 / squares.numel(), gradient.shape[-1]))


def outstanding_rows(gradient: Tensor) -> Tensor:
    """Return the numbers of the rows of (V, d) that hold more than all others do.

    Those that are not exactly zero, if most are; else those whose norm is more than twice, and in logarithms more than
    8 robust standard deviations above, the median.
    """
    norms = gradient.double().norm(dim=1)
    if has_zero_rows(gradient):
        return norms.nonzero()[:, 0]
    logs = norms.clamp_min(TINY).log()
    above = logs - logs.median()
    spread = 1.4826 * above.abs().median()
    return (above > max(_DEVIATIONS * float(spread), _TWICE)).nonzero()[:, 0]


def has_zero_rows(gradient: Tensor) -> bool:
    """Say whether most rows of (V, d) are exactly zero, so that there is no noise."""
    return float((gradient == 0).all(1).double().mean()) > _MOST_ZERO
