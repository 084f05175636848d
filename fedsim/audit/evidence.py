"""Evidence of failed searches: each search converged, on enough updates, and succeeds without the defense.

Only then does a failed attack support a statement about a defense. Otherwise the state is "undecided", with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fedsim.audit.record import AuditArm, Training
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.judgement.evidence import Reach, is_evidence, reach
from fedsim.judgement.limits import judge_limit, updates_to_decide
from fedsim.metrics.statistics import wilson
from fedsim.metrics.success import Rule
from fedsim.record import Interval, VictimRecord

NO_GUESS = "no guess within the time"  # failure of an update with no guess when its time ended


def ideal(victims: Sequence[VictimRecord], rule: Rule) -> Reach:
    """Return the recovered share of the ideal attacker on some updates; an empty `Reach` if it was not computed."""
    return reach([victim.ceiling for victim in victims], rule) or Reach(None, None, "")


def count_converged(victims: Sequence[VictimRecord]) -> int:
    """Return the number of searches with a guess that explains the update as well as the ground truth does."""
    return sum(victim.converged is True for victim in victims)


def iterations(victims: Sequence[VictimRecord]) -> int:
    """Return the largest number of iterations of a search."""
    return max((victim.iterations for victim in victims), default=0)


def restarts(victims: Sequence[VictimRecord]) -> int:
    """Return the largest number of restarts of a winning attack."""
    return max((int(victim.diagnostics.get("starts", 1)) for victim in victims), default=0)


def ended_early(victims: Sequence[VictimRecord]) -> bool:
    """Return whether the time limit ended a search before its end."""
    return any(victim.stopped == OUT_OF_TIME or victim.failure == NO_GUESS for victim in victims)


def doubts(arm: AuditArm, rule: Rule) -> tuple[str, ...]:
    """Return reasons why unrecovered examples of an arm are no evidence; empty if they are evidence."""
    if arm.recovered_share is not None and arm.recovered_share.value == 1.0:
        return ()
    return tuple(_doubts(arm, rule))


def _doubts(arm: AuditArm, rule: Rule) -> Iterator[str]:
    if not arm.victims or arm.is_unknown:
        yield "no attack returned a guess"
        return
    if arm.recovered_share is None:
        yield "the originals are unknown, so nothing was scored"
        return
    left = [victim for victim in arm.victims if not is_evidence(victim, rule)]
    yield from _no_evidence_reasons(left, len(arm.victims))


def _no_evidence_reasons(left: list[VictimRecord], n: int) -> Iterator[str]:
    """Yield reasons why updates are no evidence; each update counts for a single reason."""
    late = [victim for victim in left if victim.stopped == OUT_OF_TIME]
    failed = [victim for victim in left if victim.failure is not None]
    unsolved = [victim for victim in left if victim not in late and victim not in failed]
    unknown = sum(victim.converged is None for victim in unsolved)
    if late:
        yield f"the clock ended {len(late)} of {n} searches"
    if failed:
        yield f"the attack failed on {len(failed)} of {n} updates"
    if len(unsolved) > unknown:
        yield (
            f"{len(unsolved) - unknown} of {n} searches did not converge within {iterations(unsolved)} iterations: the "
            "examples explain the update better than the guess, so it may hold them"
        )
    if unknown:
        yield f"whether {unknown} of {n} searches converged is not defined for this client"


def fewest(allowed: float | None, confidence: float) -> int:
    """Return how many updates without any recovery are needed to keep the allowed share.

    0 without a limit, or if no number of updates suffices.
    """
    if not allowed or allowed >= 1:
        return 0
    return 1 + (updates_to_decide(wilson(0, 1, confidence), allowed, confidence) or 0)


def may_change(arm: AuditArm, allowed: float | None, rule: Rule) -> bool:
    """Return whether more updates could change the verdict: it is undecided, and not only because a search was weak."""
    if arm.recovered_share is None or allowed is None or judge_limit(arm.recovered_share, allowed) != "undecided":
        return False
    return not doubts(arm, rule) or arm.recovered_share.value > 0


def needed_updates(arm: AuditArm, limit: float, confidence: float) -> str:
    """Return in words how many more updates and minutes would decide about a limit; empty if that is unknown."""
    needed = updates_to_decide(arm.recovered_share, limit, confidence) if arm.recovered_share else None
    if not needed:
        return ""
    minutes = max(1, math.ceil(needed * seconds_each(arm) / 60))
    time = f"{minutes} more minute{'s' if minutes > 1 else ''}"
    return (
        f"about {needed} more updates and {time} would decide, if the share stays the same "
        f"(--updates {needed + len(arm.victims)})"
    )


def seconds_each(arm: AuditArm) -> float:
    """Return the mean attack time per update, in seconds."""
    return sum(victim.seconds for victim in arm.victims) / max(1, len(arm.victims))


def has_learned(training: Training) -> bool:
    """Return whether the lower bound of a trained client's accuracy exceeds the share of the most frequent class."""
    n = training.test_examples
    low = wilson(training.accuracy * n, n).low
    return low is not None and low > training.majority_accuracy


def is_below(first: Interval | None, second: Interval | None) -> bool:
    """Return whether a figure lies below another beyond chance, that is, with disjoint intervals."""
    if first is None or second is None or first.high is None or second.low is None:
        return False
    return first.high < second.low
