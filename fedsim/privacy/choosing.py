"""Privacy cost of releasing the best of several private runs on the same data.

Each run is (l, rho(l)) private in Renyi's sense; their number K is random, and neither it nor the other runs are
released. With K of the truncated negative binomial law of shape eta and rate gamma the best run has

    rho(l) + (1 + eta) min over m of ((1 - 1/m) rho(m) + ln(1/gamma) / m) + ln(E K) / (l - 1)

at order l (Papernot, Steinke 2022, arXiv 2110.03620, theorem 2). Shape 1 is the geometric law. A fixed or
known number of runs has no such bound: all runs count and are composed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedsim.core.errors import FedsimError
from fedsim.privacy.accounting import ORDERS, Spent, epsilon, epsilon_of_order, rdp


def epsilon_of_all(runs: Sequence[Sequence[Spent]], delta: float) -> float:
    """Return the epsilon of all runs together: the cost for a fixed number of runs, whichever run is released."""
    return epsilon([part for run in runs for part in run], delta).value


def epsilon_of_best(run: Sequence[Spent], mean: float, delta: float, shape: float = 1.0) -> float:
    """Return the epsilon of the best of K equal runs, K random and secret.

    Args:
        run: steps of one run.
        mean: of K, above 1.
        delta: at which epsilon is stated.
        shape: eta of K's law, above -1; 1 for the geometric law, 0 for the logarithmic law.

    Raises:
        FedsimError: the mean or the shape is out of range.
    """
    if not 1.0 < mean < math.inf or not -1.0 < shape < math.inf:
        raise FedsimError(
            f"the mean number of runs is {mean:g} and the shape {shape:g}, expected above 1 and above -1."
        )
    divergences = {order: rdp(run, order) for order in ORDERS}
    known = {order: value for order, value in divergences.items() if math.isfinite(value)}
    rate_term = math.log(1.0 / rate_of(mean, shape))
    choice = (1.0 + shape) * min((1.0 - 1.0 / order) * value + rate_term / order for order, value in known.items())
    epsilons = (value + choice + math.log(mean) / (order - 1.0) for order, value in known.items())
    return max(0.0, min(epsilon_of_order(order, value, delta) for order, value in zip(known, epsilons, strict=True)))


def draw_number(mean: float, shape: float, generator: np.random.Generator) -> int:
    """Return K, at least 1: P(k + 1) is P(k) times (1 - gamma) (k + eta) / (k + 1)."""
    rate = rate_of(mean, shape)
    chance = (
        -(1.0 - rate) / math.log(rate) if shape == 0.0 else shape * (1.0 - rate) / math.expm1(-shape * math.log(rate))
    )
    number, left = 1, generator.random() - chance
    while left >= 0.0 and chance > 0.0:
        chance *= (1.0 - rate) * (number + shape) / (number + 1)
        number, left = number + 1, left - chance
    return number


def rate_of(mean: float, shape: float) -> float:
    """Return gamma in (0, 1), for which the law of this shape has the mean `mean`, above 1."""
    from scipy.optimize import root_scalar  # noqa: PLC0415 - listing methods need not wait for SciPy

    least = 1e-12
    return float(root_scalar(lambda gamma: mean_of(gamma, shape) - mean, bracket=(least, 1.0 - least)).root)


def mean_of(rate: float, shape: float) -> float:
    """Return E K of the truncated negative binomial law: eta (1 - gamma) / (gamma (1 - gamma^eta))."""
    if shape == 0.0:
        return (1.0 / rate - 1.0) / math.log(1.0 / rate)
    return shape * (1.0 - rate) / (rate * -math.expm1(shape * math.log(rate)))
