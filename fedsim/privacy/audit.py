"""Audit of a run's guarantee: fair coins include or exclude canaries, and a test guesses the coins.

Under (epsilon, delta) the number of right guesses W among r is stochastically below a binomial with success rate
e^eps / (1 + e^eps), up to a term in delta:

    P(W >= v) <= P(B >= v) + 2 m delta max over i of P(v > B >= v - i) / i,    B ~ Binomial(r, e^eps / (1 + e^eps))

(Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, theorem 5.2). The largest epsilon that makes an observed v unlikely
is a lower bound on the true epsilon. An audit can contradict a guarantee, but never prove it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError

_LARGEST_EPSILON = 50.0
_HALVINGS = 50


class GuaranteeContradicted(FedsimError):
    """A run showed more than its guarantee allows, so the mechanism does not keep the guarantee."""


@dataclass(frozen=True)
class Audit:
    """The result of guesses about canaries.

    Attributes:
        canaries: number of canaries, put in or left out.
        guesses: number of guesses.
        correct: number of right guesses.
        delta: delta of the bound.
        confidence: confidence of the bound.
        epsilon: lower bound on the epsilon of the mechanism.
    """

    canaries: int
    guesses: int
    correct: int
    delta: float
    confidence: float
    epsilon: float


def coins(canaries: int, generator: torch.Generator) -> Tensor:
    """Return which canaries take part, boolean (canaries,), by independent fair coins."""
    return torch.rand(canaries, generator=generator) < 1 / 2


def audit(included: Tensor, scores: Tensor, guesses: int, delta: float, confidence: float = 0.95) -> Audit:
    """Return the audit of the mechanism behind these scores.

    Half of the guesses say that the canaries with the highest scores are included, half that the canaries with the
    lowest scores are not. The others are not guessed.

    Args:
        included: inclusion of the canaries, from `coins`, boolean (m,); scores may depend on it only through the
            mechanism.
        scores: evidence of inclusion, finite, (m,).
        guesses: number of guesses, even, at most m, fixed before the scores are seen.
        delta: delta of the bound.
        confidence: confidence of the bound.

    Raises:
        FedsimError: the number of guesses is odd or out of range, or a score is not finite.
    """
    canaries = len(included)
    if not 0 < guesses <= canaries or guesses % 2:
        raise FedsimError(f"guesses is {guesses}, expected an even number of at most {canaries}, the canaries.")
    if not bool(torch.isfinite(scores).all()):
        raise FedsimError("a canary's score is not finite. Expected a number for each canary.")
    order = scores.argsort()
    excluded, in_ = order[: guesses // 2], order[canaries - guesses // 2 :]
    correct = int((~included[excluded]).sum() + included[in_].sum())
    lower = epsilon_at_least(canaries, guesses, correct, delta, confidence)
    return Audit(canaries, guesses, correct, delta, confidence, lower)


def epsilon_at_least(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """Return the largest epsilon that this many right guesses contradict, at least 0."""
    risk = 1.0 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) > risk:
        return 0.0
    low, high = 0.0, _LARGEST_EPSILON
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, correct, middle, delta) <= risk else (low, middle)
    return low


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of this many right guesses under (epsilon, delta)."""
    from scipy.special import expit  # noqa: PLC0415 - most runs need not wait for SciPy
    from scipy.stats import binom  # noqa: PLC0415 - most runs need not wait for SciPy

    rate = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, rate))
    lower_tail = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
    steepest = float((lower_tail / np.arange(1, correct + 1)).max()) if correct else 0.0
    return min(1.0, tail + 2.0 * canaries * delta * steepest)


def check_claim(outcome: Audit, epsilon: float) -> None:
    """Compare an audit with a claimed epsilon at the audit's delta.

    Raises:
        GuaranteeContradicted: the audit's lower bound is above the claim.
    """
    if outcome.epsilon <= epsilon or math.isinf(epsilon):
        return
    raise GuaranteeContradicted(
        f"the guarantee states epsilon {epsilon:.3g} at delta {outcome.delta:g}, but "
        f"{outcome.correct} of {outcome.guesses} guesses about {outcome.canaries} canaries were "
        f"right, which requires epsilon of at least {outcome.epsilon:.3g} (confidence "
        f"{outcome.confidence:g}). Check for missing noise, clipping of the whole batch, or a "
        "sensitivity that is too small."
    )
