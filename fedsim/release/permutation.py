"""Permutation test of an attack: scores stay fixed, labels are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from fedsim.record import Finding, Interval

_SHUFFLES = 999
_ROUNDING = 1e-12


class PermutationTest(NamedTuple):
    """p-value of a permutation test, and mean and 95 % range of the null distribution."""

    p: float
    value: Interval


def permutation_test(
    figure: Callable[[np.ndarray], float], labels: np.ndarray, generator: np.random.Generator
) -> PermutationTest:
    """Return the result of a permutation test.

    Args:
        figure: returns the attack's figure for given labels.
        labels: the true labels, shape (N,).
        generator: source of the shuffles.
    """
    true = figure(labels)
    lucky = np.array([figure(generator.permutation(labels)) for _ in range(_SHUFFLES)])
    low, high = (float(end) for end in np.quantile(lucky, [0.025, 0.975]))
    p = (1 + int((lucky >= true - _ROUNDING).sum())) / (1 + _SHUFFLES)
    return PermutationTest(p, Interval(value=float(lucky.mean()), low=low, high=high, n=len(labels)))


def with_control(finding: Finding, p: float, control: Interval) -> Iterator[Finding]:
    """Yield a finding with its p-value, followed by its negative control."""
    yield finding.model_copy(update={"p_value": p})
    yield finding.model_copy(
        update={"role": "negative-control", "label": f"{finding.label}, control", "value": control}
    )
