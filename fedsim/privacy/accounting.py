"""What noisy steps cost: epsilon at a given delta, by accountants that give upper bounds, and the noise for an epsilon.

The mechanism is Gaussian noise on a sum to which every unit contributes at most the sensitivity, and in which a unit
takes part with probability q in each step, independent of all others. Three accountants:

    exact   q = 1: T steps are one Gaussian mechanism with mu^2 = sum of 1 / sigma^2, and
            delta(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu)   (Balle, Wang 2018, arXiv 1805.06530, thm. 8)
    PRV     q < 1: numerical composition of the privacy loss (Gopi, Lee, Wutschitz 2021, arXiv 2106.02848), by Opacus
    RDP     Renyi divergence at orders 1.1 to 512 (Mironov, Talwar, Zhang 2019, arXiv 1908.10530), as a second opinion,
            converted as in Canonne, Kamath, Steinke 2020, arXiv 2004.00010, proposition 12

Accountants by the central limit theorem (Gaussian differential privacy) are no upper bounds, and are not used.
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
_LARGEST_EPSILON = 500.0  # beyond, the grid of PRV grows without use
_SMALLEST_DELTA = 1e-9  # below, the rounding of PRV's Fourier transforms could show
_RELATIVE_ERROR, _LEAST_ERROR = 5e-3, 1e-3  # of PRV
_LEAST_MULTIPLIER, _LARGEST_MULTIPLIER = 1e-3, 1e6
_CALIBRATION = 1e-3  # relative error of a noise multiplier that is searched for


@dataclass(frozen=True)
class Spent:
    """Noisy steps of one kind.

    Attributes:
        noise_multiplier: standard deviation of the noise in units of the sensitivity.
        sampling_rate: probability that the unit takes part in a step; 1 for no sampling.
        steps: how many.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


@dataclass(frozen=True)
class Epsilon:
    """What steps cost at one delta: the figure to report, the one of RDP beside it, and who computed the first."""

    value: float
    rdp: float
    accountant: Accountant


@dataclass(frozen=True)
class Guarantee:
    """An (epsilon, delta) with everything without which it says nothing.

    Attributes:
        epsilon: the smallest upper bound that an accountant gave.
        delta: the one it holds at.
        rdp_epsilon: the bound of the RDP accountant, as a second opinion; never far below `epsilon`.
        accountant: which gave `epsilon`.
        unit: what two neighbouring data sets differ in.
        adjacency: how they differ.
        sampling_rate: probability that the unit takes part in a step; the largest, where it changes.
        steps: noisy steps altogether.
        composition: how many steps of which noise were composed, in words.
        against: who may see what, for the guarantee to hold, in words that follow "against".
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
    against: str


def guarantee(mechanism: Mechanism, spent: Sequence[Spent]) -> Guarantee:
    """Return what steps of a mechanism guarantee together.

    Args:
        mechanism: whom it protects from whom, and at which delta.
        spent: the steps that were run; none cost nothing.

    Raises:
        FedsimError: units are sampled, and adjacency is "replace", for which there is no accountant here.
    """
    if mechanism.adjacency == "replace" and any(part.sampling_rate < 1 for part in spent):
        raise FedsimError(
            "a sampled mechanism was stated for neighbours that replace a unit, and its accountants are for neighbours "
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
        composition=_composition(_merged(spent)),
        against=mechanism.against,
    )


def composed(mechanisms: Sequence[Mechanism]) -> Guarantee:
    """Return what several mechanisms on the same data guarantee together, each run for one round.

    Raises:
        FedsimError: there is none, or they differ in unit, adjacency, delta or in whom they protect from.
    """
    stated = {(m.unit, m.adjacency, m.delta, m.against) for m in mechanisms}
    if len(stated) != 1:
        raise FedsimError(
            f"expected mechanisms of one unit, adjacency, delta and opponent, got {len(stated)} kinds: guarantees of "
            "different kinds do not add up. Compose each kind for itself."
        )
    return guarantee(mechanisms[0], [in_rounds(mechanism, 1) for mechanism in mechanisms])


def in_rounds(mechanism: Mechanism, rounds: int) -> Spent:
    """Return the steps of a mechanism that ran for so many rounds."""
    return Spent(mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps * rounds)


def epsilon(spent: Sequence[Spent], delta: float) -> Epsilon:
    """Return what steps cost at `delta`, at least 0; infinite when one of them is without noise."""
    merged = _merged(spent)
    if not merged:
        return Epsilon(0.0, 0.0, "none")
    if any(part.noise_multiplier == 0 for part in merged):
        return Epsilon(math.inf, math.inf, "none")
    renyi = rdp_epsilon(merged, delta)
    if all(part.sampling_rate == 1 for part in merged):
        return Epsilon(gaussian_epsilon(_mu(merged), delta), renyi, "exact")
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
    """Return the Renyi divergence of an order above 1, summed over the steps; infinite where it cannot be computed."""
    from opacus.accountants.analysis.rdp import compute_rdp  # noqa: PLC0415 - takes seconds to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow of an order that then is left out
            total = sum(
                float(
                    np.asarray(
                        compute_rdp(q=p.sampling_rate, noise_multiplier=p.noise_multiplier, steps=p.steps, orders=order)
                    )
                )
                for p in spent
            )
    except (ArithmeticError, ValueError):
        return math.inf
    return total if total >= 0 else math.inf


def rdp_epsilon(spent: Sequence[Spent], delta: float) -> float:
    """Return the epsilon of the RDP accountant: the least over `ORDERS`."""
    return max(0.0, min(_converted(order, rdp(spent, order), delta) for order in ORDERS))


@cache
def noise_multiplier(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the least noise multiplier, within 0.2 % above, of which so many steps cost at most `target`.

    Raises:
        FedsimError: no noise multiplier up to a million is enough.
    """
    from scipy.optimize import root_scalar  # noqa: PLC0415 - listing methods need not wait for SciPy

    def excess(multiplier: float) -> float:
        return epsilon([Spent(multiplier, sampling_rate, steps)], delta).value - target

    high = _by_rdp(target, delta, sampling_rate, steps)  # enough for RDP is enough for the others
    found = high / 4
    while (over := excess(found)) <= 0 and found > _LEAST_MULTIPLIER:  # RDP can ask for many times what is needed
        high, found = found, found / 4
    if over > 0:
        found = float(root_scalar(excess, bracket=(found, high), rtol=_CALIBRATION).root)
    while excess(found) > 0:
        found *= 1 + _CALIBRATION
    return found


def _by_rdp(target: float, delta: float, sampling_rate: float, steps: int) -> float:
    def is_enough(multiplier: float) -> bool:
        return rdp_epsilon([Spent(multiplier, sampling_rate, steps)], delta) <= target

    low, high = 0.0, 0.1
    while not is_enough(high):
        low, high = high, 2 * high
        if high > _LARGEST_MULTIPLIER:
            raise FedsimError(
                f"no noise reaches epsilon {target:g} at delta {delta:g} in {steps} steps. Raise the target, or let "
                "fewer steps be taken."
            )
    while high - low > _CALIBRATION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _prv_epsilon(merged: Sequence[Spent], delta: float, about: float) -> float | None:
    """Return the upper bound of Opacus' accountant, or None where it cannot be trusted: tiny deltas, huge epsilons.

    It adds the error that it is allowed to its result, so where the first result is far below `about`, the second
    try is allowed a smaller one.
    """
    if not about < _LARGEST_EPSILON or delta < _SMALLEST_DELTA:
        return None
    first = _prv_bound(merged, delta, max(_LEAST_ERROR, _RELATIVE_ERROR * about))
    if first is None or first > about / 2:
        return first
    second = _prv_bound(merged, delta, max(_LEAST_ERROR, _RELATIVE_ERROR * first))
    return first if second is None else min(first, second)


def _prv_bound(merged: Sequence[Spent], delta: float, error: float) -> float | None:
    from opacus.accountants import PRVAccountant  # noqa: PLC0415 - takes seconds to import

    accountant = PRVAccountant()
    accountant.history = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in merged]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its own RDP orders, which only size its grid
            found = float(accountant.get_epsilon(delta, eps_error=error))
    except (ArithmeticError, ValueError, RuntimeError, MemoryError):
        return None
    return max(0.0, found) if math.isfinite(found) else None


def _mu(merged: Iterable[Spent]) -> float:
    return math.sqrt(sum(part.steps / part.noise_multiplier**2 for part in merged))


def _converted(order: float, divergence: float, delta: float) -> float:
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _merged(spent: Iterable[Spent]) -> list[Spent]:
    """Return the steps with equal kinds added up and nothing that costs nothing, in order of appearance."""
    counts: dict[tuple[float, float], int] = {}
    for part in spent:
        kind = (part.noise_multiplier, part.sampling_rate)
        counts[kind] = counts.get(kind, 0) + part.steps
    return [Spent(*kind, steps) for kind, steps in counts.items() if steps and kind[1] > 0]


def _composition(merged: Sequence[Spent]) -> str:
    if not merged:
        return "no step"
    return ", then ".join(
        f"{part.steps} {'step' if part.steps == 1 else 'steps'} of noise multiplier {part.noise_multiplier:.4g}"
        for part in merged
    )
