"""Decide whether a failed search is evidence: it converged, on enough updates, and it succeeds without the defense.

Only then does a failed attack say something about a defense. Otherwise the answer is "undecided", with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedsim.audit.record import Inspection, Training
from fedsim.metrics.evidence import held, is_evidence, reach, state_of, updates_to_decide
from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.record import VictimRecord
from fedsim.scenario import Scoring

OUT_OF_TIME = "out of time"  # how a search stopped that the clock ended


def state(inspection: Inspection, scoring: Scoring) -> str:
    """Return what became of some updates: recovered, withstood or undecided."""
    if not inspection.is_scored or inspection.failure is not None:
        return "undecided"
    return state_of(inspection.victims, scoring.rule)


def ideal(inspection: Inspection | None, scoring: Scoring) -> str:
    """Return how far the ideal attacker comes on the same updates, for people."""
    figures = None if inspection is None else reach([victim.ceiling for victim in inspection.victims], scoring.rule)
    return "" if figures is None else figures.in_words


def ideal_figures(inspection: Inspection, scoring: Scoring) -> tuple[float | None, float | None]:
    """Return its median PSNR in dB and the share of images that it would recover; None where not known."""
    figures = reach([victim.ceiling for victim in inspection.victims], scoring.rule)
    return (None, None) if figures is None else figures[:2]


def converged(inspection: Inspection) -> int:
    """Return how many searches explain the update as well as the truth does."""
    return sum(victim.converged is True for victim in inspection.victims)


def restarts(inspection: Inspection) -> int:
    """Return the largest number of starts that the winning attack searched from."""
    return max((int(victim.facts.get("starts", 1)) for victim in inspection.victims), default=0)


def doubts(inspection: Inspection, scoring: Scoring) -> tuple[str, ...]:
    """Return why images that were not recovered from these updates are no evidence; empty where they are."""
    if inspection.recovered == 1.0:
        return ()
    return tuple(_doubts(inspection, scoring.rule))


def _doubts(inspection: Inspection, rule: Rule) -> Iterator[str]:
    if not inspection.is_scored:
        yield "the originals are unknown, so nothing was scored"
        return
    if inspection.failure or not inspection.victims or inspection.is_unknown:
        yield "no attack returned a guess"
        return
    n, left = len(inspection.victims), [victim for victim in inspection.victims if not is_evidence(victim, rule)]
    yield from _counted(left, n)


def _counted(left: list[VictimRecord], n: int) -> Iterator[str]:
    """Yield why updates are no evidence, each update for one reason."""
    late = [victim for victim in left if victim.stopped == OUT_OF_TIME]
    failed = [victim for victim in left if victim.failure is not None]
    rest = [victim for victim in left if victim not in late and victim not in failed]
    unknown = sum(victim.converged is None for victim in rest)
    if late:
        yield f"the clock ended {len(late)} of {n} searches"
    if failed:
        yield f"the attack failed on {len(failed)} of {n} updates"
    if len(rest) > unknown:
        most = max(victim.iterations for victim in rest)
        yield (
            f"{len(rest) - unknown} of {n} searches did not converge within {most} iterations: the examples explain "
            "the update better than the guess, so it may hold them"
        )
    if unknown:
        yield f"whether {unknown} of {n} searches converged is not defined for this client"


def fewest(allowed: float | None, confidence: float) -> int:
    """Return how many updates, none recovered, keep what a policy allows; 0 without one, or where no number does."""
    if not allowed or allowed >= 1:
        return 0
    return 1 + (updates_to_decide(wilson(0, 1, confidence), allowed, confidence) or 0)


def may_change(inspection: Inspection, allowed: float | None, scoring: Scoring) -> bool:
    """Say whether more updates could change what is known: the policy is undecided, and not for a weak search alone."""
    if inspection.summary is None or allowed is None or held(inspection.summary.success, allowed) != "undecided":
        return False
    return not doubts(inspection, scoring) or inspection.summary.success.value > 0


def more(inspection: Inspection, limit: float, confidence: float) -> str:
    """Return how much more would decide about a limit, in words; empty where nobody knows."""
    if inspection.summary is None:
        return ""
    needed = updates_to_decide(inspection.summary.success, limit, confidence)
    if not needed:
        return ""
    minutes = max(1, math.ceil(needed * inspection.seconds / len(inspection.victims) / 60))
    time = f"{minutes} more minute{'s' if minutes > 1 else ''}"
    return (
        f"about {needed} more updates and {time} would decide, if the share stays the same "
        f"(--updates {needed + len(inspection.victims)})"
    )


def has_learned(training: Training) -> bool:
    """Return whether a trained client classifies better than the most frequent class."""
    n = training.test_examples
    low = wilson(training.accuracy * n, n).low
    return low is not None and low > training.guessing


def is_below(inspection: Inspection | None, control: Inspection | None) -> bool:
    """Return whether less is recovered than from the control beyond chance, that is, with disjoint intervals."""
    if inspection is None or control is None or inspection.summary is None or control.summary is None:
        return False
    high, low = inspection.summary.success.high, control.summary.success.low
    return high is not None and low is not None and high < low
