"""Accuracy of attribute inference, averaged over attribute values (balanced accuracy).

So an attacker that always names the most frequent value scores no higher than a random guess.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedsim.core.registry import metric
from fedsim.record import Interval

_FEWEST = 3  # minimum number of clients for an interval


@metric(
    "attribute_balanced_accuracy",
    title="read right",
    summary="share of updates with correctly inferred attribute value, averaged over the values",
    over="finding",
    form="percent",
    digits=0,
    is_success_count=True,
    limits=(0.0, 1.0),
)
def share_read(
    right: Tensor,
    truth: Tensor,
    clients: Tensor,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the mean over values of the share of updates inferred correctly; n is the number of updates.

    The interval is a percentile bootstrap over clients, since updates of a client share its data; it has no bounds
    below three clients. A value missing in a resample is excluded from its mean.

    Args:
        right: correctness of each update's inferred value, shares (N,).
        truth: true values, shape (N,).
        clients: client of each update, shape (N,).
        generator: source of the resamples.
        confidence: coverage of the interval, in (0, 1).
        resamples: number of bootstrap resamples.

    Raises:
        ValueError: no update is given.
    """
    if not len(truth):
        raise ValueError("a share needs at least one update")
    owners, values = (np.unique(column.numpy(), return_inverse=True)[1] for column in (clients, truth))
    totals = np.zeros((owners.max() + 1, values.max() + 1))
    hits = totals.copy()
    np.add.at(totals, (owners, values), 1.0)
    np.add.at(hits, (owners, values), right.double().numpy())
    value = float(_mean(hits.sum(0), totals.sum(0)))
    if len(totals) < _FEWEST:
        return Interval(value=value, low=None, high=None, n=len(truth))
    copies = generator.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=resamples)
    low, high = np.quantile(_mean(copies @ hits, copies @ totals), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), n=len(truth))


def _mean(hits: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return the mean of the accuracy over the values that occur."""
    occurs = totals > 0
    return np.where(occurs, hits / np.maximum(totals, 1), 0.0).sum(-1) / occurs.sum(-1)
