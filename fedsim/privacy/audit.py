"""Lower bound on epsilon from right guesses about canaries, which fair coins include or exclude.

Under (epsilon, delta) the number of right guesses W among r is stochastically below a binomial with success rate
e^eps / (1 + e^eps), up to a term in delta:

    P(W >= v) <= P(B >= v) + 2 m delta max over i of P(v > B >= v - i) / i,    B ~ Binomial(r, e^eps / (1 + e^eps))

(Steinke, Nasr, Jagielski 2023, arXiv 2305.08846, theorem 5.2). The largest epsilon that makes an observed v unlikely
is a lower bound on the true epsilon. An audit can contradict a guarantee, but never prove it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LARGEST_EPSILON = 50.0
_HALVINGS = 50


def coins(canaries: int, generator: torch.Generator) -> Tensor:
    """Return which canaries take part, boolean (canaries,), by independent fair coins."""
    return torch.rand(canaries, generator=generator) < 1 / 2


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
