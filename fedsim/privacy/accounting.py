"""Epsilon of noisy steps at a given delta, by accountants that give upper bounds, and the noise for an epsilon.

The mechanism is Gaussian noise on a sum to which every unit contributes at most the sensitivity. A unit is sampled in
each step with probability q, independently of all others. Three accountants:

    exact   q = 1: T steps are a single Gaussian mechanism with mu^2 = sum of 1 / sigma^2, and
            delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)   (Balle, Wang 2018, arXiv 1805.06530, thm. 8)
    PRV     q < 1: numerical composition of the privacy loss (Gopi, Lee, Wutschitz 2021, arXiv 2106.02848), by Opacus
    RDP     Renyi divergence at orders 1.1 to 512 (Mironov, Talwar, Zhang 2019, arXiv 1908.10530), as a second opinion;
            converted as in Canonne, Kamath, Steinke 2020, arXiv 2004.00010, proposition 12

Accountants by the central limit theorem (Gaussian differential privacy) are not upper bounds, so they are not used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from fedsim.core.errors import FedsimError
from fedsim.core.types import Adjacency, Mechanism, Unit

Accountant = Literal["exact", "PRV", "RDP", "none"]
ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *map(float, range(12, 64)), 128.0, 256.0, 512.0)
_LARGEST_EPSILON = 500.0  # above, PRV's grid grows without benefit
_SMALLEST_DELTA = 1e-9  # below, rounding in PRV's Fourier transforms could matter
_RELATIVE_ERROR, _LEAST_ERROR = 5e-3, 1e-3  # of PRV
_LEAST_MULTIPLIER, _LARGEST_MULTIPLIER = 1e-3, 1e6
_NO_NOISE, _MOST_NOISE = 1e-9, 1e9  # noise multipliers with squares far from the limits of double precision
_MOST_STEPS = 1e12
_SHOWN = 12  # characters of a number
_CALIBRATION = 1e-3  # relative error of a noise multiplier that is searched for


@dataclass(frozen=True)
class Spent:
    """Noisy steps with equal parameters.

    Attributes:
        noise_multiplier: standard deviation of the noise in units of the sensitivity.
        sampling_rate: probability that the unit is sampled in a step; 1 for no sampling.
        steps: number of steps.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


@dataclass(frozen=True)
class Epsilon:
    """Epsilon of steps at a given delta: the smallest upper bound, its accountant, and the bound of RDP."""

    value: float
    rdp: float
    accountant: Accountant


@dataclass(frozen=True)
class Guarantee:
    """An (epsilon, delta) guarantee with its conditions.

    Attributes:
        epsilon: the smallest upper bound of all accountants.
        delta: at which epsilon holds.
        rdp_epsilon: bound of the RDP accountant, as a second opinion; never far below `epsilon`.
        accountant: name of the accountant of `epsilon`.
        unit: difference of neighbouring data sets, a record or a client.
        adjacency: how they differ in it.
        sampling_rate: probability that the unit is sampled in a step; the largest rate if it changes.
        steps: total number of noisy steps.
        composition: the composed steps and their noise, in words.
        adversary: the attacker that the guarantee holds against, in words that follow "against".
    """

    epsilon: float
    delta: float
    rdp_epsilon: float
    accountant: Accountant
    unit: Unit
    adjacency: Adjacency
    sampling_rate: float
    steps: int
    composition: str
    adversary: str


def guarantee(mechanism: Mechanism, spent: Sequence[Spent]) -> Guarantee:
    """Return the joint guarantee of a mechanism's steps.

    Args:
        mechanism: unit, adjacency, opponent and delta.
        spent: the steps that were run; without steps epsilon is 0.

    Raises:
        FedsimError: units are sampled and adjacency is "replace": no accountant covers this case.
    """
    if mechanism.adjacency == "replace" and any(part.sampling_rate < 1 for part in spent):
        raise FedsimError(
            "a sampled mechanism is stated for neighbours that replace a unit, but its accountants need neighbours "
            "that add or remove one. State it with adjacency 'add-or-remove', or with sampling rate 1."
        )
    total = epsilon(spent, mechanism.delta)
    return Guarantee(
        epsilon=total.value,
        delta=mechanism.delta,
        rdp_epsilon=total.rdp,
        accountant=total.accountant,
        unit=mechanism.unit,
        adjacency=mechanism.adjacency,
        sampling_rate=max((part.sampling_rate for part in spent), default=mechanism.sampling_rate),
        steps=sum(part.steps for part in spent),
        composition=_composition(_merge(spent)),
        adversary=mechanism.adversary,
    )


def compose_rounds(mechanism: Mechanism, rounds: int) -> Spent:
    """Return the steps of a mechanism over this many rounds."""
    return Spent(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps * rounds)


def epsilon(spent: Sequence[Spent], delta: float) -> Epsilon:
    """Return the epsilon of steps at `delta`, at least 0; infinite where a step has next to no noise.

    Raises:
        FedsimError: delta, a noise multiplier, a sampling rate or a number of steps is outside of its range.
    """
    if not 0 < delta < 1:
        raise FedsimError(f"delta is {delta:g}, expected a number above 0 and below 1.")
    merged = _merge(spent)
    if not merged:
        return Epsilon(0.0, 0.0, "none")
    if any(part.noise_multiplier < _NO_NOISE for part in merged):
        return Epsilon(math.inf, math.inf, "none")
    renyi = rdp_epsilon(merged, delta)
    if all(part.sampling_rate == 1 for part in merged):
        return Epsilon(gaussian_epsilon(mu_of(merged), delta), renyi, "exact")
    tight = None if any(part.sampling_rate == 1 for part in merged) else _prv_epsilon(merged, delta, renyi)
    return Epsilon(renyi, renyi, "RDP") if tight is None or renyi < tight else Epsilon(tight, renyi, "PRV")


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the smallest delta of the Gaussian mechanism, mu = sensitivity / standard deviation, at `epsilon`."""
    from scipy.special import log_ndtr  # noqa: PLC0415 - listing methods need not wait for SciPy

    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the smallest epsilon of the Gaussian mechanism at `delta`, at least 0."""
    from scipy.optimize import root_scalar  # noqa: PLC0415 - listing methods need not wait for SciPy

    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    highest = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(root_scalar(lambda guess: gaussian_delta(mu, guess) - delta, bracket=(0.0, highest)).root)


def rdp(spent: Iterable[Spent], order: float) -> float:
    """Return the Renyi divergence of an order above 1, summed over steps; infinite where it is not computable."""
    try:
        total = sum(_divergence_of_step(part, order) * part.steps for part in spent)
    except (ArithmeticError, ValueError):
        return math.inf
    return total if total >= 0 else math.inf


def _divergence_of_step(part: Spent, order: float) -> float:
    if part.sampling_rate == 1:
        return order / (2 * part.noise_multiplier**2)
    from fedsim.core.foreign.opacus import compute_rdp  # noqa: PLC0415 - takes seconds to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow at an order, which is then left out
        rate, noise = part.sampling_rate, part.noise_multiplier
        return float(np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=order)))


def rdp_epsilon(spent: Sequence[Spent], delta: float) -> float:
    """Return the epsilon of the RDP accountant: the minimum over `ORDERS`."""
    return max(0.0, min(epsilon_of_order(order, rdp(spent, order), delta) for order in ORDERS))


@cache
def noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the smallest noise multiplier, up to 0.2 % above, with which the steps cost at most `target`.

    No steps, or steps with sampling rate 0, need no noise.

    Raises:
        FedsimError: no noise multiplier up to a million suffices.
    """
    if not _merge([Spent(_LEAST_MULTIPLIER, sampling_rate, steps)]):
        return 0.0
    from scipy.optimize import root_scalar  # noqa: PLC0415 - listing methods need not wait for SciPy

    def excess(multiplier: float) -> float:
        return epsilon([Spent(multiplier, sampling_rate, steps)], delta).value - target

    high = _find_rdp_multiplier(
        target, delta, sampling_rate, steps
    )  # a multiplier that suffices for RDP suffices for the others
    multiplier = high / 4
    while (
        excess_now := excess(multiplier)
    ) <= 0 and multiplier > _LEAST_MULTIPLIER:  # RDP can overestimate the noise many times over
        high, multiplier = multiplier, multiplier / 4
    if excess_now > 0:
        multiplier = float(root_scalar(excess, bracket=(multiplier, high), rtol=_CALIBRATION).root)
    while excess(multiplier) > 0:
        multiplier *= 1 + _CALIBRATION
    return multiplier


def _find_rdp_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    def is_enough(multiplier: float) -> bool:
        return rdp_epsilon([Spent(multiplier, sampling_rate, steps)], delta) <= target

    low, high = 0.0, 0.1
    while not is_enough(high):
        low, high = high, 2 * high
        if high > _LARGEST_MULTIPLIER:
            raise FedsimError(
                f"no noise reaches epsilon {target:g} at delta {delta:g} in {steps} steps. "
                "Raise the target, or reduce the number of steps."
            )
    while high - low > _CALIBRATION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _prv_epsilon(merged: Sequence[Spent], delta: float, tolerance: float) -> float | None:
    """Return the upper bound of Opacus' PRV accountant; None if it is unreliable: tiny deltas, huge epsilons.

    Its result includes the allowed error. If the first result is far below `tolerance`, a second attempt uses a smaller
    allowed error.
    """
    if not tolerance < _LARGEST_EPSILON or delta < _SMALLEST_DELTA:
        return None
    first = _prv_bound(merged, delta, max(_LEAST_ERROR, _RELATIVE_ERROR * tolerance))
    if first is None or first > tolerance / 2:
        return first
    second = _prv_bound(merged, delta, max(_LEAST_ERROR, _RELATIVE_ERROR * first))
    return first if second is None else min(first, second)


def _prv_bound(merged: Sequence[Spent], delta: float, error: float) -> float | None:
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in merged]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warns about its RDP orders, which only set the size of its grid
            bound = float(accountant.get_epsilon(delta, eps_error=error))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
    return max(0.0, bound) if math.isfinite(bound) else None


def mu_of(spent: Iterable[Spent]) -> float:
    """Return mu, the sensitivity over the standard deviation of the composed steps, all without subsampling."""
    return math.sqrt(sum(part.steps / part.noise_multiplier**2 for part in spent))


def epsilon_of_order(order: float, divergence: float, delta: float) -> float:
    """Return the epsilon at `delta` of a Renyi divergence of an order above 1."""
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _merge(spent: Iterable[Spent]) -> list[Spent]:
    """Return the steps with equal parameters merged, without steps that cost nothing, in order of appearance."""
    counts: dict[tuple[float, float], int] = {}
    for part in spent:
        _check_range("noise multiplier", part.noise_multiplier, _MOST_NOISE)
        _check_range("sampling rate", part.sampling_rate, 1.0)
        _check_range("number of steps", part.steps, _MOST_STEPS)
        kind = (part.noise_multiplier, part.sampling_rate)
        counts[kind] = counts.get(kind, 0) + part.steps
    return [Spent(*kind, steps) for kind, steps in counts.items() if steps and kind[1] > 0]


def _check_range(noun: str, value: float, limit: float) -> None:
    if not 0 <= value <= limit:  # false for NaN too
        raise FedsimError(
            f"the {noun} of a private step is {str(value)[:_SHOWN]}, expected a number from 0 to {limit:g}."
        )


def _composition(merged: Sequence[Spent]) -> str:
    if not merged:
        return "no step"
    return ", then ".join(
        f"{part.steps} {'step' if part.steps == 1 else 'steps'} of noise multiplier {part.noise_multiplier:.4g}"
        for part in merged
    )
