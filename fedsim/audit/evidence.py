"""Decide whether a failed search is evidence: long, converged, on enough updates, and successful without the defense.

Only then does a failed attack say something about a defense. Otherwise the answer is "undecided", with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

from fedsim.audit.record import Inspection, Training
from fedsim.metrics.statistics import wilson
from fedsim.record import Interval, VictimRecord

LEAST_ITERATIONS = 200
_ENDS = ("no improvement", "inputs stand still", "objective below threshold")
_LATE = 0.8  # a search has converged when what follows this share of it ...
_GAIN = 0.01  # ... lowers the objective by less than this share


def doubts(found: Inspection) -> tuple[str, ...]:
    """Return why images that were not recovered from these updates are no evidence; empty where they are."""
    if found.recovered == 1.0:
        return ()
    return tuple(_doubts(found))


def _doubts(found: Inspection) -> Iterator[str]:
    if not found.is_scored:
        yield "the originals are unknown, so nothing was scored"
        return
    if found.failure or not found.victims or found.is_unknown:
        yield "no attack returned a guess"
        return
    if found.is_short:
        yield "the clock ended a search"
    failed = sum(victim.failure is not None for victim in found.victims)
    if failed:
        yield f"the attack failed on {failed} of {len(found.victims)} updates"
    if found.iterations < LEAST_ITERATIONS:
        yield f"the searches had {found.iterations} iterations, fewer than {LEAST_ITERATIONS}"
    moving = sum(not has_converged(victim) for victim in found.victims if victim.failure is None)
    if moving:
        yield f"{moving} of {len(found.victims)} searches did not converge"


def has_converged(victim: VictimRecord) -> bool:
    """Return whether a search converged: it stopped by itself, or its last fifth gained less than 1 %.

    A closed-form guess that does not explain the update does not count as converged.
    """
    if victim.stopped in _ENDS:
        return True
    if not victim.history or not all(math.isfinite(value) for _, value in victim.history):
        return False
    last = victim.history[-1][0]
    early = [value for iteration, value in victim.history if iteration <= _LATE * last]
    if not early:
        return False
    best = min(value for _, value in victim.history)
    return min(early) - best <= _GAIN * abs(min(early))


def may_exceed(found: Interval, limit: float) -> bool:
    """Return whether an interval exceeds an upper bound; an unknown one always does."""
    return found.high is None or found.high > limit


def updates_for(limit: float, confidence: float) -> int | None:
    """Return how many updates, none recovered, keep their interval below a limit; None where no number does."""
    if limit <= 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return max(1, math.ceil(z**2 * (1 / limit - 1) - 1e-9))  # rounding must not require one more


def has_learned(training: Training) -> bool:
    """Return whether a trained client classifies better than the most frequent class."""
    n = training.test_examples
    low = wilson(training.accuracy * n, n).low
    return low is not None and low > training.guessing


def is_below(found: Inspection | None, control: Inspection | None) -> bool:
    """Return whether less is recovered than from the control beyond chance, that is, with disjoint intervals."""
    if found is None or control is None or found.summary is None or control.summary is None:
        return False
    high, low = found.summary.success.high, control.summary.success.low
    return high is not None and low is not None and high < low
