"""Which rows of a table's gradient were used: those that are not zero, or under noise those that stand out of it."""

from __future__ import annotations

from torch import Tensor


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
